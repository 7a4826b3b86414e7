"""`dropserve-train calibrate`: temperatures, thresholds and prediction sets.

Everything is fitted on the validation images, for dropout off and for each of several numbers of
passes; the weights and the dropout rates stay as they are. Outliers that training was not shown
say what the thresholds reject. The same checkpoint always gets the same bytes.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from scipy.optimize import minimize_scalar

from model.arrays import Array
from model.checkpoint import AnyCheckpoint, load_any_checkpoint, save_checkpoint
from model.engines import build_engine
from model.errors import CheckpointError
from model.literals import ENTROPY_BOUNDS, Estimator
from model.uncertainty.calibration import apply_temperature
from model.uncertainty.statistics import entropy
from training.answers import (
    McAnswers,
    Pixels,
    dataset_of,
    load_digit_network,
    predict_all,
    sample_grid,
)
from training.config import CalibrateOptions, CalibrationRules
from training.data import Images, load_images
from training.metrics import Labels, Wrong, auroc, negative_log_likelihood, score
from training.operating_points import Point, entropy_shares, target_points
from training.outliers import KEPT_BACK, kinds_for, make_unfamiliar
from training.pool import load_pool
from training.selection import STORED_DIGITS, between, upper_bound
from training.settling import fit_settling, looks_before

C = TypeVar("C", bound=AnyCheckpoint)

# Numbers of passes; between them a server interpolates. `PASSES` is the one of `fitted_with`.
GRID = (1, 2, 3, 5, 10, 20, 50, 100, 200, 1000)
PASSES = 50
# Far from the seeds of `evaluate`, which begin at 0.
SEED = 1_000_000
ESTIMATOR: Estimator = "independent"
LEVELS = (0.99, 0.995, 0.999)
UNFAMILIAR_PER_KIND = 500
# The threshold's sequence of tests begins where this share of the digits is accepted.
_FIRST_SHARE = 0.5
_LEAST_TEMPERATURE, _LARGEST_TEMPERATURE = 0.05, 20.0


def calibrate(options: CalibrateOptions, rules: CalibrationRules) -> AnyCheckpoint:
    """Fits everything and writes the calibrated checkpoint, perhaps to the same file.

    What cannot be fitted is null in the checkpoint, and is named on standard error. A present
    calibration does not matter.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    output = options.output or options.checkpoint
    checkpoint = load_digit_network(options.checkpoint)
    validation = _validation_images(checkpoint, options.data_dir)
    kept_back = make_kept_back(validation)
    if options.pool is not None:
        pool = load_pool(options.pool).kept_back
        kept_back |= {f"{kind}, {form}": pixels for (kind, form), pixels in pool.items()}
    fitted = fit(checkpoint, validation, kept_back, rules)
    if options.name is not None:
        fitted = replace(fitted, training={**fitted.training, "name": options.name})
    save_checkpoint(output, fitted)
    return load_any_checkpoint(output)


def make_kept_back(validation: Images) -> dict[str, Pixels]:
    """Outliers made from the validation images, of kinds that training does not show."""
    return {
        kind.__name__: make_unfamiliar(validation, UNFAMILIAR_PER_KIND, SEED, [kind])
        for kind in kinds_for(validation.dataset, KEPT_BACK)
    }


def fit(
    checkpoint: C,
    validation: Images,
    kept_back: Mapping[str, Pixels],
    rules: CalibrationRules,
) -> C:
    """The checkpoint with its calibration, and with what it does to outliers, per kind."""
    labels, engine = validation.labels, build_engine(checkpoint.network)
    deterministic = predict_all(engine, validation.pixels)
    plain = _fit_kind(deterministic, entropy(deterministic), None, labels, rules)
    grid = sorted({*GRID, PASSES})
    looks = sorted({*grid, *looks_before(grid[-1])})
    answers = sample_grid(engine, validation.pixels, looks, seed=SEED)
    outliers = {
        name: sample_grid(engine, pixels, looks, seed=SEED + len(validation))
        for name, pixels in kept_back.items()
    }
    by_passes = {
        passes: _fit_kind(
            found.mean, found.predictive_entropy, found.mutual_information, labels, rules
        )
        for passes, found in answers.items()
        if passes in grid
    }
    mc = by_passes[PASSES]
    _report_missing(plain, by_passes)
    calibration: dict[str, Any] = {
        "temperature": plain.temperature,
        "mc_temperature": mc.temperature,
        "thresholds": {"predict": plain.threshold, "mc": mc.threshold},
        "conformal": {
            str(level): {"predict": plain.conformal[str(level)], "mc": mc.conformal[str(level)]}
            for level in LEVELS
        },
        "by_passes": [{"passes": passes, **each.row()} for passes, each in by_passes.items()],
        "target_errors": {"predict": plain.target_errors, "mc": mc.target_errors},
        "entropy_histogram": {
            "bounds": list(ENTROPY_BOUNDS),
            "predict": entropy_shares(entropy(deterministic)),
            "mc": entropy_shares(answers[PASSES].predictive_entropy),
        },
        "fitted_with": {
            "passes": PASSES,
            "estimator": ESTIMATOR,
            "images": len(validation),
            "seed": SEED,
            "rules": asdict(rules),
        },
    }
    joined = None
    if outliers:
        joined = {
            look: McAnswers.join([each[look] for each in outliers.values()]) for look in looks
        }
    references = [passes for passes in grid if passes >= PASSES]
    calibration["until_decision"] = fit_settling(calibration, answers, joined, references, rules)
    measured = {"predict": plain.measured, "mc": mc.measured}
    measured["kept_back"] = {
        name: _measure_outliers(answers[PASSES], found[PASSES], mc)
        for name, found in outliers.items()
    }
    metrics = {**checkpoint.metrics, "calibrated_validation": measured}
    return replace(checkpoint, calibration=calibration, metrics=metrics)


@dataclass(frozen=True)
class _Fitted:
    """The calibration of one kind of answer, and its scores on the validation images."""

    temperature: float
    threshold: float | None
    unfamiliar_threshold: float | None
    conformal: dict[str, float]
    target_errors: dict[str, Point]
    measured: dict[str, Any]

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "measured"}


def _fit_kind(
    probs: Array,
    predictive_entropy: Array,
    mutual_information: Array | None,
    labels: Labels,
    rules: CalibrationRules,
) -> _Fitted:
    temperature = fit_temperature(probs, labels)
    probabilities = apply_temperature(probs, temperature)
    wrong, scores, unfamiliar = probs.argmax(axis=1) != labels, predictive_entropy, None
    if mutual_information is not None and mutual_information.max() > 0:
        unfamiliar = upper_quantile(mutual_information, rules.unfamiliar_share)
        # Digits that disagreement rejects are not accepted at any entropy.
        scores = np.where(mutual_information > unfamiliar, np.inf, scores)
    threshold = abstention_threshold(scores, wrong, rules)
    found = score(probabilities, labels)
    measured = {"error": found.error, "nll": found.nll, "ece": found.ece}
    if threshold is not None:
        accepted = scores <= threshold
        errors = (wrong & accepted).sum() / accepted.sum()
        measured |= {"coverage": accepted.mean(), "accepted_error": errors}
    rounded = {name: round(float(value), 6) for name, value in measured.items()}
    least = {str(level): least_probability(probabilities, labels, level) for level in LEVELS}
    targets = target_points(predictive_entropy, wrong, rules.confidence)
    return _Fitted(temperature, threshold, unfamiliar, least, targets, rounded)


def _report_missing(plain: _Fitted, by_passes: Mapping[int, _Fitted]) -> None:
    answers = {"answers without dropout": plain}
    answers |= {f"answers of {passes} passes": each for passes, each in by_passes.items()}
    if missing := [name for name, each in answers.items() if each.threshold is None]:
        print(
            f"no threshold keeps the error among accepted answers low enough for "
            f"{', '.join(missing)}: their decision will be null; allow more with --accepted-error",
            file=sys.stderr,
        )


def _measure_outliers(digits: McAnswers, found: McAnswers, mc: _Fitted) -> dict[str, float]:
    """The AUROC of both measures against digits, and the share that is accepted."""
    row = {
        "entropy_auroc": auroc(digits.predictive_entropy, found.predictive_entropy),
        "disagreement_auroc": auroc(digits.mutual_information, found.mutual_information),
    }
    if mc.threshold is not None:
        is_accepted = found.predictive_entropy <= mc.threshold
        if mc.unfamiliar_threshold is not None:
            is_accepted &= found.mutual_information <= mc.unfamiliar_threshold
        row["accepted"] = float(is_accepted.mean())
    return {key: round(value, 4) for key, value in row.items()}


def _validation_images(checkpoint: AnyCheckpoint, data_dir: Path | None) -> Images:
    """The images that were held out when the checkpoint was trained."""
    try:
        count = int(checkpoint.training["recipe"]["validation_images"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the checkpoint does not say which images were held out of its training; "
            "dropserve-train train writes it"
        ) from error
    return load_images("train", data_dir, dataset_of(checkpoint))[-count:]


def fit_temperature(probs: Array, labels: Labels) -> float:
    """The temperature with the smallest negative log-likelihood of uncalibrated `probs`, (N, C)."""

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(apply_temperature(probs, math.exp(logarithm)), labels)

    bounds = (math.log(_LEAST_TEMPERATURE), math.log(_LARGEST_TEMPERATURE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), STORED_DIGITS)


def upper_quantile(scores: Array, share: float) -> float:
    """A score that at most this share of the scores, (N,), exceeds."""
    ordered = np.sort(scores)
    last = len(ordered) - 1 - math.floor(share * len(ordered))
    return between(ordered, last)


def abstention_threshold(scores: Array, wrong: Wrong, rules: CalibrationRules) -> float | None:
    """The largest uncertainty to accept.

    At least `abstaining_share` is rejected, so that unfamiliar images are too; and more, until the
    upper confidence bound of the error among accepted answers (Clopper and Pearson 1934) is at most
    `accepted_error`: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
    Networks". So that one confidence holds for all thresholds that are tried, they are tried in a
    fixed sequence, from half of the answers on, which ends at the first that fails: Angelopoulos et
    al. 2021, "Learn then Test", section 3.1.

    Args:
        scores: uncertainty, (N,); infinite where an answer is rejected at any threshold.
        wrong: which answers were wrong, (N,).
        rules: the share, the error, and the confidence of the bound.

    Returns:
        A score between the last accepted and the first rejected one, or None: the first threshold
        does not keep the bound.
    """
    order = np.argsort(scores, kind="stable")
    errors = np.cumsum(wrong[order], dtype=np.int64)  # among the n + 1 most certain
    bounds = upper_bound(errors, np.arange(1, len(scores) + 1), rules.confidence)
    first = math.ceil(_FIRST_SHARE * len(scores)) - 1
    stop = math.floor(len(scores) * (1 - rules.abstaining_share))
    stop = min(stop, int(np.isfinite(scores).sum()))
    failed = np.flatnonzero(bounds[first:stop] > rules.accepted_error)
    last = first + int(failed[0]) - 1 if len(failed) else stop - 1
    return between(scores[order], last) if last >= first else None


def least_probability(probabilities: Array, labels: Labels, level: float) -> float:
    """The conformal quantile: the calibrated probability that a class needs to be in a set.

    With the score 1 - p(true class), the quantile of a finite sample: the ceil((N + 1) level)-th
    smallest of N scores (Vovk et al. 2005; Angelopoulos and Bates 2023, "Conformal Prediction: A
    Gentle Introduction", section 1).

    It is 0, which puts every class into every set, where the sample is too small for the level.
    """
    images = len(labels)
    rank = math.ceil((images + 1) * level)
    if rank > images:
        return 0.0
    likelihoods = np.sort(probabilities[np.arange(images), labels])[::-1]
    return _round_down(float(likelihoods[rank - 1]))


def _round_down(value: float) -> float:
    """Rounds to a few significant digits, downwards, so that sets can only grow."""
    if value <= 0:
        return 0.0
    scale = 10.0 ** (STORED_DIGITS - 1 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
