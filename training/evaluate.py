"""`dropserve-train evaluate`: scores of a checkpoint, and its report and model card."""

import json
import shutil
from pathlib import Path
from typing import Any

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from training.answers import Pixels, Subject, answer_all, dataset_of
from training.config import EvaluateOptions
from training.data import KMNIST, NOTMNIST, Images, load_images, load_unfamiliar
from training.errors import TrainingError
from training.report import measurements
from training.report.figures import save_figures
from training.report.pages import CARD_FIGURES, headline, model_card, report_page
from training.runs import use_one_thread

# Out-of-distribution sets; a network is not judged on the set that it was trained on.
UNFAMILIAR = (NOTMNIST, KMNIST)
# Significant digits of the numbers in the report: more differ between machines.
_DIGITS = 8


def evaluate(options: EvaluateOptions) -> None:
    """Measures, prints the headline and writes report, figures and, with `card`, the model card.

    Raises:
        CheckpointError: a checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    use_one_thread()
    checkpoint = load_checkpoint(options.checkpoint or DEFAULT_CHECKPOINT)
    images = load_images("test", options.data_dir, dataset_of(checkpoint))
    subject = answer_all(checkpoint, images, passes=options.passes, seed=options.seed)
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
    unfamiliar = _unfamiliar(images, options.data_dir)
    report["unfamiliar"] = measurements.measure_unfamiliar(subject, unfamiliar)
    report["rotated_digit"] = measurements.measure_rotated_digit(subject)
    report["rotation"] = measurements.measure_rotation(subject)
    report["convergence"] = measurements.measure_convergence(subject)
    report["uncertain"] = measurements.measure_uncertain(subject)
    report["errors"] = measurements.measure_errors(subject)
    _write(report, options)
    print(headline(report))
    print(f"report: {options.output / 'report.md'}")


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
    checkpoint, config = subject.checkpoint, subject.checkpoint.network.config
    described = {
        "name": checkpoint.name,
        "version": checkpoint.version,
        "parameters": checkpoint.network.parameter_count(),
        "layer_sizes": list(config.layer_sizes),
        "serving_rates": list(config.dropout_rates),
        "training_rates": list(checkpoint.training.get("dropout_rates", config.dropout_rates)),
        "training": dict(checkpoint.training),
        "calibration": dict(checkpoint.calibration),
    }
    return {
        "checkpoint": described,
        "images": len(subject.images),
        "passes": subject.passes,
        "seed": subject.seed,
    }


def _answer(path: Path, options: EvaluateOptions, images: Images) -> Subject:
    return answer_all(load_checkpoint(path), images, passes=options.passes, seed=options.seed)


def _seed_row(subject: Subject) -> dict[str, Any]:
    checkpoint = subject.checkpoint
    return {
        "seed": checkpoint.training.get("seed"),
        "version": checkpoint.version,
        "validation_error": checkpoint.metrics["validation"]["error"],
        "error": float(subject.wrong("predict").mean()),
        "mc_error": float(subject.wrong("mc").mean()),
    }


def _unfamiliar(images: Images, data_dir: Path | None) -> dict[str, Pixels | str]:
    """Each set's images, or why there are none."""
    found: dict[str, Pixels | str] = {}
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
