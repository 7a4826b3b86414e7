"""`dropserve-train evaluate`: everything that can be said about a checkpoint, in one report."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from training.answers import Pixels, dataset_of
from training.data import KMNIST, NOTMNIST, Images, load_images, load_unfamiliar
from training.errors import TrainingError
from training.report.convergence import measure_convergence
from training.report.figures import save_figures
from training.report.gallery import measure_doubtful, measure_errors
from training.report.measurements import measure_abstaining, measure_against, measure_scores
from training.report.model_card import CARD_FIGURES, model_card
from training.report.pages import headline, report_page
from training.report.shifts import measure_rotated_digit, measure_rotation, measure_unfamiliar
from training.report.subject import Subject, answer_all

# Image sets that are no digits; of the network's own data set nothing is unfamiliar.
UNFAMILIAR = (NOTMNIST, KMNIST)
# Numbers are written with so many significant digits: more differ between machines.
_DIGITS = 8


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate.

    Attributes:
        checkpoint: None is the committed one.
        output: folder of the report.
        data_dir: see `training.data.load_images`.
        passes: stochastic passes an image.
        seed: image i uses the seed `seed + i`.
        against: a checkpoint to compare with.
        also: checkpoints of other seeds, for the spread.
        card: where to write the model card, with its figures in a folder beside it.
        is_quick: only what is printed, without the report.
    """

    checkpoint: Path | None
    output: Path
    data_dir: Path | None
    passes: int = 50
    seed: int = 0
    against: Path | None = None
    also: Sequence[Path] = ()
    card: Path | None = None
    is_quick: bool = False


def evaluate(options: EvaluateOptions) -> None:
    """Measures, prints the headline and writes report, figures and, if asked for, the card.

    Raises:
        CheckpointError: a checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    checkpoint = load_checkpoint(options.checkpoint or DEFAULT_CHECKPOINT)
    images = load_images("test", options.data_dir, dataset_of(checkpoint))
    subject = answer_all(checkpoint, images, passes=options.passes, seed=options.seed)
    report = _describe(subject)
    report["scores"] = measure_scores(subject)
    report["abstaining"] = measure_abstaining(subject)
    if options.against is not None:
        report["against"] = measure_against(subject, _answer(options.against, options, images))
    if options.also:
        others = [_answer(path, options, images) for path in options.also]
        report["seeds"] = [_seed_row(each) for each in (subject, *others)]
    if options.is_quick:
        print(headline(report))
        return
    report["unfamiliar"] = measure_unfamiliar(subject, _unfamiliar(images, options.data_dir))
    measures: dict[str, Callable[[Subject], dict[str, Any]]] = {
        "rotated_digit": measure_rotated_digit,
        "rotation": measure_rotation,
        "convergence": measure_convergence,
        "doubtful": measure_doubtful,
        "errors": measure_errors,
    }
    for section, measure in measures.items():
        report[section] = measure(subject)
    _write(report, options)
    print(headline(report))
    print(f"report: {options.output / 'report.md'}")


def _write(report: dict[str, Any], options: EvaluateOptions) -> None:
    folder = options.output
    figures = save_figures(report, folder / "figures")
    (folder / "report.md").write_text(report_page(report, figures))
    document = json.dumps(_rounded(report), indent=1, allow_nan=False)
    (folder / "report.json").write_text(document + "\n")
    if options.card is not None:
        options.card.parent.mkdir(parents=True, exist_ok=True)
        options.card.write_text(model_card(report, figures))
        beside = options.card.parent / "figures"
        beside.mkdir(exist_ok=True)
        for name in CARD_FIGURES:
            if name in figures and beside.resolve() != (folder / "figures").resolve():
                shutil.copy(folder / "figures" / f"{name}.svg", beside)


def _describe(subject: Subject) -> dict[str, Any]:
    checkpoint = subject.checkpoint
    config = checkpoint.network.config
    return {
        "checkpoint": {
            "name": checkpoint.name,
            "version": checkpoint.version,
            "parameters": checkpoint.network.parameter_count(),
            "layer_sizes": list(config.layer_sizes),
            "serving_rates": list(config.dropout_rates),
            "training_rates": list(checkpoint.training.get("dropout_rates", config.dropout_rates)),
            "training": dict(checkpoint.training),
            "calibration": dict(checkpoint.calibration),
        },
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
    """The same document with numbers of a few significant digits."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
