"""`dropserve-train calibrate`: serving rates, temperatures, thresholds and prediction sets.

Everything is fitted on the validation images, and on outliers made from them; the weights stay as
they are. The same checkpoint always gets the same bytes.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from model.arrays import Array
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.engines import build_engine
from model.errors import CheckpointError
from model.literals import Estimator
from model.uncertainty.calibration import apply_temperature
from model.uncertainty.statistics import entropy
from training.answers import McAnswers, Pixels, dataset_of, predict_all, sample_all, with_rate
from training.config import CalibrationRules
from training.data import Images, load_images
from training.errors import TrainingError
from training.metrics import Labels, Wrong, auroc, negative_log_likelihood, score
from training.outliers import KEPT_BACK, kinds_for, make_unfamiliar

PASSES = 50
# Far from the seeds of `evaluate`, which begin at 0.
SEED = 1_000_000
ESTIMATOR: Estimator = "independent"
LEVELS = (0.99, 0.995, 0.999)
# One rate for all layers: mixtures separated unfamiliar images no better.
CANDIDATE_RATES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
UNFAMILIAR_PER_KIND = 500
_LEAST_TEMPERATURE, _LARGEST_TEMPERATURE = 0.05, 20.0
# Significant digits of stored numbers: more are noise, and differ between machines.
_DIGITS = 4


@dataclass(frozen=True)
class Candidate:
    """One serving rate, and the answers' quality with it.

    Attributes:
        rate: the probability of zeroing a unit, the same in each hidden layer.
        nll: of the calibrated MC answers to the validation digits, nats.
        error: their share of wrong answers.
        auroc: of predictive entropy, unfamiliar images against digits.
        error_bound: on errors among accepted answers when `abstaining_share` is rejected.
        answers: to the validation digits.
    """

    rate: float
    nll: float
    error: float
    auroc: float
    error_bound: float
    answers: McAnswers | None = field(default=None, compare=False)


def calibrate(
    checkpoint_path: Path, output: Path, data_dir: Path | None, rules: CalibrationRules
) -> Checkpoint:
    """Fits everything and writes the calibrated checkpoint, perhaps to the same file.

    Prints the quality with each serving rate. A present calibration does not matter.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrainingError: the data cannot be used, or a rule cannot be kept.
    """
    checkpoint = load_checkpoint(checkpoint_path)
    save_checkpoint(output, fit(checkpoint, _validation_images(checkpoint, data_dir), rules))
    return load_checkpoint(output)


def fit(checkpoint: Checkpoint, validation: Images, rules: CalibrationRules) -> Checkpoint:
    """The checkpoint with serving rates and calibration, all from the validation images."""
    labels = validation.labels
    unfamiliar = make_unfamiliar(validation, UNFAMILIAR_PER_KIND, SEED, KEPT_BACK)
    candidates = []
    for rate in CANDIDATE_RATES:
        found = _try_rate(checkpoint, rate, validation, unfamiliar, rules)
        print(
            f"rate {rate:.2f}: NLL {found.nll:.4f}, error {found.error:.2%}, "
            f"AUROC {found.auroc:.4f}, accepted errors at most {found.error_bound:.2%}",
            file=sys.stderr,
        )
        candidates.append(found)
    chosen = choose_rate(candidates, rules)
    mc = chosen.answers
    assert mc is not None
    network = with_rate(checkpoint.network, chosen.rate)
    deterministic = predict_all(build_engine(network), validation.pixels)
    fitted = {
        "predict": _fit_kind(deterministic, entropy(deterministic), labels, rules),
        "mc": _fit_kind(mc.mean, mc.predictive_entropy, labels, rules),
    }
    kinds = kinds_for(validation.dataset, KEPT_BACK)
    calibration = {
        "temperature": fitted["predict"].temperature,
        "mc_temperature": fitted["mc"].temperature,
        "thresholds": {kind: each.threshold for kind, each in fitted.items()},
        "conformal": {
            str(level): {kind: each.least[index] for kind, each in fitted.items()}
            for index, level in enumerate(LEVELS)
        },
        "fitted_with": {
            "passes": PASSES,
            "estimator": ESTIMATOR,
            "images": len(validation),
            "seed": SEED,
            "unfamiliar": {kind.__name__: UNFAMILIAR_PER_KIND for kind in kinds},
            "rules": asdict(rules),
        },
    }
    measured = {kind: each.measured for kind, each in fitted.items()}
    measured["mc"]["unfamiliar_auroc"] = round(chosen.auroc, 6)
    metrics = {**checkpoint.metrics, "calibrated_validation": measured}
    return replace(checkpoint, network=network, calibration=calibration, metrics=metrics)


@dataclass(frozen=True)
class _Fitted:
    """The calibration of one kind of answer, and its scores on the validation images."""

    temperature: float
    threshold: float | None
    least: tuple[float, ...]  # per level
    measured: dict[str, Any]


def _fit_kind(probs: Array, uncertainty: Array, labels: Labels, rules: CalibrationRules) -> _Fitted:
    temperature = fit_temperature(probs, labels)
    probabilities = apply_temperature(probs, temperature)
    wrong = probs.argmax(axis=1) != labels
    threshold = abstention_threshold(uncertainty, wrong, rules)
    scores = score(probabilities, labels)
    measured = {"error": scores.error, "nll": scores.nll, "ece": scores.ece}
    if threshold is not None:
        accepted = uncertainty <= threshold
        errors = (wrong & accepted).sum() / accepted.sum()
        measured |= {"coverage": accepted.mean(), "accepted_error": errors}
    least = tuple(least_probability(probabilities, labels, level) for level in LEVELS)
    rounded = {name: round(float(value), 6) for name, value in measured.items()}
    return _Fitted(temperature, threshold, least, rounded)


def choose_rate(candidates: Sequence[Candidate], rules: CalibrationRules) -> Candidate:
    """The candidate with the largest AUROC, of those that digits can afford.

    Digits can afford a candidate that keeps the bound on accepted errors while it rejects the
    stated share, and whose NLL exceeds that of the best of these by at most the tolerance.

    Raises:
        TrainingError: there is none.
    """
    kept = [each for each in candidates if each.error_bound <= rules.accepted_error]
    largest = min((each.nll for each in kept), default=0.0) * (1 + rules.nll_tolerance)
    affordable = [each for each in kept if each.nll <= largest]
    if not affordable:
        raise TrainingError(
            "no serving rate keeps errors among accepted digits below "
            f"{rules.accepted_error:.2%}; allow more with --accepted-error or --abstaining-share"
        )
    return max(affordable, key=lambda each: each.auroc)


def _validation_images(checkpoint: Checkpoint, data_dir: Path | None) -> Images:
    """The images that were held out when the checkpoint was trained."""
    try:
        count = int(checkpoint.training["recipe"]["validation_images"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "the checkpoint does not say which images were held out of its training; "
            "dropserve-train train writes it"
        ) from error
    return load_images("train", data_dir, dataset_of(checkpoint))[-count:]


def _try_rate(
    checkpoint: Checkpoint,
    rate: float,
    validation: Images,
    unfamiliar: Pixels,
    rules: CalibrationRules,
) -> Candidate:
    engine = build_engine(with_rate(checkpoint.network, rate))
    digits = sample_all(engine, validation.pixels, passes=PASSES, seed=SEED)
    others = sample_all(engine, unfamiliar, passes=PASSES, seed=SEED + len(validation))
    entropies = digits.predictive_entropy
    temperature = fit_temperature(digits.mean, validation.labels)
    scores = score(apply_temperature(digits.mean, temperature), validation.labels)
    wrong = digits.mean.argmax(axis=1) != validation.labels
    bound = accepted_error_bound(entropies, wrong, rules.abstaining_share, rules.confidence)
    separation = auroc(entropies, others.predictive_entropy)
    return Candidate(rate, scores.nll, scores.error, separation, bound, digits)


def fit_temperature(probs: Array, labels: Labels) -> float:
    """The temperature with the smallest negative log-likelihood of uncalibrated `probs`, (N, C)."""

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(apply_temperature(probs, math.exp(logarithm)), labels)

    bounds = (math.log(_LEAST_TEMPERATURE), math.log(_LARGEST_TEMPERATURE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), _DIGITS)


def abstention_threshold(scores: Array, wrong: Wrong, rules: CalibrationRules) -> float | None:
    """The largest uncertainty to accept.

    At least `abstaining_share` is rejected, so that unfamiliar images are too; and more, until the
    upper confidence bound of the error among accepted answers (Clopper and Pearson 1934) is at most
    `accepted_error`: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
    Networks".

    Args:
        scores: uncertainty, (N,).
        wrong: which answers were wrong, (N,).
        rules: the share, the error, and the confidence of the bound.

    Returns:
        A score between the last accepted and the first rejected one, or None: no threshold keeps
        the bound.
    """
    order = np.argsort(scores, kind="stable")
    errors = np.cumsum(wrong[order], dtype=np.int64)  # among the n + 1 most certain
    bounds = upper_bound(errors, np.arange(1, len(scores) + 1), rules.confidence)
    most = _accepted(len(scores), rules.abstaining_share)
    allowed = np.flatnonzero(bounds[:most] <= rules.accepted_error)
    if len(allowed) == 0:
        return None
    last = int(allowed[-1])
    following = min(last + 1, len(scores) - 1)
    between = (scores[order[last]] + scores[order[following]]) / 2
    return round(float(between), _DIGITS + 2)


def accepted_error_bound(
    scores: Array, wrong: Wrong, abstaining_share: float, confidence: float
) -> float:
    """Upper bound of the error among accepted answers when that share is rejected."""
    most = _accepted(len(scores), abstaining_share)
    accepted = np.argsort(scores, kind="stable")[:most]
    return float(upper_bound(wrong[accepted].sum(), np.int64(most), confidence))


def upper_bound(
    errors: NDArray[np.int64] | np.int64, trials: NDArray[np.int64] | np.int64, confidence: float
) -> Array:
    """Clopper and Pearson's one-sided upper bound of an error rate."""
    bound: Array = np.asarray(beta.ppf(confidence, errors + 1, trials - errors))
    return np.where(np.asarray(errors) == trials, 1.0, bound)


def _accepted(images: int, abstaining_share: float) -> int:
    return max(1, math.floor(images * (1 - abstaining_share)))


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
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
