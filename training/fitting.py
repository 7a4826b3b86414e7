"""Fits of calibration: temperatures, thresholds for abstaining, levels of prediction sets.

Pure functions of answers and labels.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from model.uncertainty.calibration import apply_temperature
from model.uncertainty.statistics import Array
from training.metrics import Labels, negative_log_likelihood

_LEAST_TEMPERATURE, _LARGEST_TEMPERATURE = 0.05, 20.0
# Stored numbers have so many digits: more are noise, and differ between machines.
_DIGITS = 4


def fit_temperature(probs: Array, labels: Labels) -> float:
    """The temperature with the smallest negative log-likelihood.

    Args:
        probs: uncalibrated, (N, C).
        labels: the true classes, (N,).
    """

    def loss(logarithm: float) -> float:
        return negative_log_likelihood(apply_temperature(probs, math.exp(logarithm)), labels)

    bounds = (math.log(_LEAST_TEMPERATURE), math.log(_LARGEST_TEMPERATURE))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return round(math.exp(float(found.x)), _DIGITS)


def abstention_threshold(
    scores: Array,
    wrong: NDArray[np.bool_],
    *,
    abstaining_share: float,
    accepted_error: float,
    confidence: float,
) -> float | None:
    """The largest score to accept.

    At least `abstaining_share` is turned away, so that the unfamiliar is too; and more, until the
    upper confidence bound of the error among what is accepted (Clopper and Pearson 1934) is at most
    `accepted_error`: Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural
    Networks".

    Args:
        scores: doubt, (N,).
        wrong: which answers were wrong, (N,).
        abstaining_share: 0 to 1.
        accepted_error: 0 to 1.
        confidence: of the bound, 0 to 1.

    Returns:
        A score between the last that is accepted and the first that is not, or None: no threshold
        keeps the bound.
    """
    order = np.argsort(scores, kind="stable")
    errors = np.cumsum(wrong[order], dtype=np.int64)  # among the n + 1 least doubtful
    bounds = upper_bound(errors, np.arange(1, len(scores) + 1), confidence)
    most = _accepted(len(scores), abstaining_share)
    allowed = np.flatnonzero(bounds[:most] <= accepted_error)
    if len(allowed) == 0:
        return None
    last = int(allowed[-1])
    following = min(last + 1, len(scores) - 1)
    between = (scores[order[last]] + scores[order[following]]) / 2
    return round(float(between), _DIGITS + 2)


def accepted_error_bound(
    scores: Array, wrong: NDArray[np.bool_], abstaining_share: float, confidence: float
) -> float:
    """Upper bound of the error among what is accepted if so much is turned away."""
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
    """What a class needs so that prediction sets hold the true one at least so often.

    With the score 1 - p(true class), the quantile of a finite sample: the ceil((N + 1) level)-th
    smallest of N scores (Vovk et al. 2005; Angelopoulos and Bates 2023, "Conformal Prediction: A
    Gentle Introduction", section 1).

    Args:
        probabilities: calibrated, (N, C).
        labels: the true classes, (N,).
        level: the coverage, 0 to 1.

    Returns:
        0, which puts every class into every set, where the sample is too small for the level.
    """
    images = len(labels)
    rank = math.ceil((images + 1) * level)
    if rank > images:
        return 0.0
    likelihoods = np.sort(probabilities[np.arange(images), labels])[::-1]
    return _round_down(float(likelihoods[rank - 1]))


def _round_down(value: float) -> float:
    """To a few significant digits; sets grow by it, if by anything."""
    if value <= 0:
        return 0.0
    scale = 10.0 ** (_DIGITS - 1 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale
