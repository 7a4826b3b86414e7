"""`dropserve-train evaluate`: scores of a checkpoint, and its report and model card."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from model.arrays import Array
from model.checkpoint import DEFAULT_CHECKPOINT
from model.layered import LayeredConfig, LayeredNetwork
from model.network import MLP
from model.sampling.sites import round_rate
from model.uncertainty.statistics import entropy
from training.answers import Subject, answer_all, dataset_of, load_digit_network
from training.config import EvaluateOptions
from training.data import (
    KMNIST,
    MNIST,
    NOTMNIST,
    Images,
    load_corrupted,
    load_images,
    load_unfamiliar,
)
from training.distil import load_teacher
from training.errors import TrainingError
from training.report import measurements, paths
from training.report.figures import save_figures
from training.report.pages import CARD_FIGURES, headline, model_card, report_page
from training.runs import find_device, use_one_thread

# Out-of-distribution sets; a network is not judged on the set that it was trained on.
UNFAMILIAR = (NOTMNIST, KMNIST)
# Numbers of passes of the report's table.
PASSES = (1, 2, 5, 10, 50, 200, 1000)
# Significant digits of the numbers in the report: more differ between machines.
_DIGITS = 8


def evaluate(options: EvaluateOptions) -> None:
    """Measures, prints the headline and writes report, figures and, with `card`, the model card.

    Raises:
        CheckpointError: a checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    use_one_thread()
    checkpoint = load_digit_network(options.checkpoint or DEFAULT_CHECKPOINT)
    images = load_images("test", options.data_dir, dataset_of(checkpoint))
    if not options.quick:
        options.output.mkdir(parents=True, exist_ok=True)  # fails now, not after minutes
    grid = () if options.quick else PASSES
    subject = answer_all(checkpoint, images, passes=options.passes, seed=options.seed, grid=grid)
    report = _describe(subject)
    report["scores"] = measurements.measure_scores(subject)
    report["abstaining"] = measurements.measure_abstaining(subject)
    if options.against is not None:
        other = _answer(options.against, options, images)
        report["against"] = measurements.measure_against(subject, other)
    if options.also:
        others = [_answer(path, options, images) for path in options.also]
        report["seeds"] = [_seed_row(each) for each in (subject, *others)]
    if options.quick:
        print(headline(report))
        return
    report["passes_table"] = paths.measure_passes(subject)
    unfamiliar = _unfamiliar(images, options.data_dir)
    answers = measurements.sample_others(subject, unfamiliar)
    report["unfamiliar"] = measurements.measure_unfamiliar(subject, unfamiliar, answers)
    if options.against is not None:
        theirs = measurements.sample_others(other, unfamiliar)
        report["against"]["unfamiliar"] = {
            each.checkpoint.version: measurements.measure_separation(each, unfamiliar, found)
            for each, found in ((subject, answers), (other, theirs))
        }
    if images.dataset == MNIST:
        prepared = paths.measure_prepared(subject, unfamiliar)
        sampled = {name: each[subject.passes] for name, each in answers.items()}
        ambiguous = _ambiguity(options.judges, images)
        report["split"] = paths.measure_split(subject, sampled, prepared, ambiguous)
        report["prepared"] = prepared
        corrupted = load_corrupted(options.data_dir)
        report["corrupted"] = paths.measure_corruptions(subject, corrupted)
    report["rotated_digit"] = measurements.measure_rotated_digit(
        checkpoint.network, images, seed=options.seed
    )
    report["rotation"] = measurements.measure_rotation(subject)
    report["convergence"] = measurements.measure_convergence(subject)
    report["uncertain"] = measurements.measure_uncertain(subject)
    report["errors"] = measurements.measure_errors(subject)
    _write(report, options)
    print(headline(report))
    print(f"report: {options.output / 'report.md'}")


def _ambiguity(judges: Sequence[Path], images: Images) -> Array | None:
    """The entropy of the mean prediction of other networks, (N,), nats."""
    if not judges:
        return None
    device = find_device("cpu")
    probs = load_teacher(judges, device).probabilities(torch.from_numpy(images.pixels))
    return entropy(probs.numpy())


def _write(report: dict[str, Any], options: EvaluateOptions) -> None:
    folder = options.output
    save_figures(report, folder / "figures")
    (folder / "report.md").write_text(report_page(report))
    document = json.dumps(_rounded(report), indent=1, allow_nan=False)
    (folder / "report.json").write_text(document + "\n")
    if options.card is not None:
        options.card.parent.mkdir(parents=True, exist_ok=True)
        options.card.write_text(model_card(report))
        figures = options.card.parent / "figures"
        figures.mkdir(exist_ok=True)
        if figures.resolve() != (folder / "figures").resolve():
            for name in CARD_FIGURES:
                shutil.copy(folder / "figures" / f"{name}.svg", figures)


def _describe(subject: Subject) -> dict[str, Any]:
    checkpoint = subject.checkpoint
    rates = [site.rate for site in subject.engine.dropout_sites]
    described = {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "network": describe_network(checkpoint.network),
        "serving_rates": rates,
        "training_rates": list(map(round_rate, checkpoint.training.get("dropout_rates", rates))),
        "training": dict(checkpoint.training),
        "calibration": dict(checkpoint.calibration),
    }
    return {
        "checkpoint": described,
        "images": len(subject.images),
        "passes": subject.passes,
        "seed": subject.seed,
    }


def describe_network(network: MLP | LayeredNetwork) -> str:
    """Its size and layers, in words."""
    size, config = f"{network.parameter_count():,} parameters", network.config
    if isinstance(config, LayeredConfig):
        return f"A network of {size}: {', '.join(layer.kind for layer in config.layers)}"
    sizes = "-".join(map(str, config.layer_sizes))
    activation = "ReLU and " if config.activation == "relu" else ""
    return (
        f"A multi-layer perceptron of {size}, {sizes}, with {activation}dropout after each hidden "
        "layer"
    )


def _answer(path: Path, options: EvaluateOptions, images: Images) -> Subject:
    return answer_all(load_digit_network(path), images, passes=options.passes, seed=options.seed)


def _seed_row(subject: Subject) -> dict[str, Any]:
    checkpoint = subject.checkpoint
    return {
        "seed": checkpoint.training.get("seed"),
        "version": checkpoint.version,
        "validation_error": checkpoint.metrics.get("validation", {}).get("error"),
        "error": float(subject.wrong("predict").mean()),
        "mc_error": float(subject.wrong("mc").mean()),
    }


def _unfamiliar(images: Images, data_dir: Path | None) -> dict[str, Images | str]:
    """Each set's images, or why there are none."""
    found: dict[str, Images | str] = {}
    for dataset in UNFAMILIAR:
        if dataset == images.dataset:
            continue
        try:
            found[dataset.title] = load_unfamiliar(dataset, data_dir)
        except TrainingError as error:
            found[dataset.title] = str(error)
    return found


def _rounded(value: Any) -> Any:
    """The document with its numbers rounded to a few significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
