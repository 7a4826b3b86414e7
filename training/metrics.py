"""Scores of predicted class probabilities, of abstaining, and of differences between answers.

Training needs neither scikit-learn nor scipy: the functions that do import them themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.arrays import Array

Labels = NDArray[np.int64]
Wrong = NDArray[np.bool_]
Binning = Literal["width", "mass"]

ECE_BINS = 15
# Resampled at a time: indices of 100 resamplings of 10,000 images are 8 MB.
_CHUNK = 100


@dataclass(frozen=True)
class Scores:
    """How good a set of answers is.

    Attributes:
        images: N, how many were scored.
        errors: how many were answered wrongly.
        nll: mean negative log-likelihood of the true class, nats.
        brier: see `brier_score`.
        ece: expected calibration error over bins of equal width; see `calibration_error`.
        ece_mass: the same over bins that hold equally many images.
    """

    images: int
    errors: int
    nll: float
    brier: float
    ece: float
    ece_mass: float

    @property
    def error(self) -> float:
        """Share of wrong answers, 0 to 1."""
        return self.errors / self.images


def score(probs: ArrayLike, labels: ArrayLike) -> Scores:
    """Scores probabilities (N, C) against true classes (N,)."""
    p, true = np.asarray(probs, dtype=np.float64), np.asarray(labels)
    return Scores(
        images=len(true),
        errors=int((p.argmax(axis=1) != true).sum()),
        nll=negative_log_likelihood(p, true),
        brier=brier_score(p, true),
        ece=calibration_error(p, true),
        ece_mass=calibration_error(p, true, binning="mass"),
    )


def negative_log_likelihood(probs: Array, labels: Labels) -> float:
    """Mean of -log p(true class), nats; (N, C) against (N,)."""
    return float(losses(probs, labels).mean())


def losses(probs: Array, labels: Labels) -> Array:
    """-log p(true class) of each image, nats, (N,)."""
    true_probs = probs[np.arange(len(labels)), labels]
    # A probability can underflow to 0 in float32; its logarithm must stay finite.
    result: Array = -np.log(np.maximum(true_probs, np.finfo(np.float32).tiny))
    return result


def brier_score(probs: Array, labels: Labels) -> float:
    """Mean over images of the summed squared errors of all classes, 0 to 2; Brier 1950."""
    errors = probs.copy()
    errors[np.arange(len(labels)), labels] -= 1
    return float(np.square(errors).sum(axis=1).mean())


def calibration_error(
    probs: ArrayLike, labels: ArrayLike, *, bins: int = ECE_BINS, binning: Binning = "width"
) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over bins.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|, Naeini et al. 2015; Guo et al. 2017, "On
    Calibration of Modern Neural Networks", equation 3.

    Args:
        probs: (N, C).
        labels: (N,).
        bins: number of bins.
        binning: "width": bin b holds confidences in (b/n, (b+1)/n]; "mass": as many images in each
            bin as in the others, or one more.
    """
    p = np.asarray(probs, dtype=np.float64)
    correct = p.argmax(axis=1) == np.asarray(labels)
    confidence = p.max(axis=1)
    return confidence_gap(confidence, correct, bin_numbers(confidence, bins, binning), bins)


def confidence_gap(
    confidence: Array, correct: NDArray[np.bool_], index: NDArray[np.int64], bins: int
) -> float:
    """The calibration error of answers in given bins; all arrays (N,)."""
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum()) / len(confidence)


def bin_numbers(confidence: Array, bins: int, binning: Binning) -> NDArray[np.int64]:
    """The bin of each image, (N,); see `calibration_error`."""
    if binning == "width":
        return (np.ceil(confidence * bins).astype(np.int64) - 1).clip(0, bins - 1)
    ranks = np.empty(len(confidence), dtype=np.int64)
    ranks[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
    return ranks * bins // len(confidence)


@dataclass(frozen=True)
class RiskCoverage:
    """The error among accepted answers, as more and more of them are accepted.

    Attributes:
        coverage: 1/N, 2/N, ... 1, (N,).
        risk: share of errors among that share of the least uncertain answers, (N,).
        aurc: area under the curve, the mean risk; smaller is better. Geifman et al. 2019,
            "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers".
    """

    coverage: Array
    risk: Array
    aurc: float

    def coverage_at(self, risk: float) -> float:
        """The largest coverage whose risk is at most this; 0 where there is none."""
        reached = np.flatnonzero(self.risk <= risk)
        return float(self.coverage[reached[-1]]) if len(reached) else 0.0


def risk_coverage(uncertainty: Array, wrong: Wrong) -> RiskCoverage:
    """The curve of an uncertainty score, (N,), against which answers were wrong, (N,).

    Equally uncertain answers share their errors evenly, so that their order does not matter.
    """
    images = len(uncertainty)
    _, group, sizes = np.unique(uncertainty, return_inverse=True, return_counts=True)
    share = np.bincount(group, weights=wrong) / sizes  # errors of each of a group's answers
    errors = np.cumsum(np.repeat(share, sizes))
    counts = np.arange(1, images + 1)
    risk = errors / counts
    return RiskCoverage(counts / images, risk, float(risk.mean()))


def oracle(wrong: Wrong) -> RiskCoverage:
    """The curve of a score that knows which answers are wrong: no score does better."""
    return risk_coverage(wrong.astype(np.float64), wrong)


def auroc(familiar: Array, unfamiliar: Array) -> float:
    """Probability that an unfamiliar image has the higher score; ties count half."""
    from sklearn.metrics import roc_auc_score

    is_unfamiliar = np.repeat([0, 1], [len(familiar), len(unfamiliar)])
    return float(roc_auc_score(is_unfamiliar, np.concatenate([familiar, unfamiliar])))


@dataclass(frozen=True)
class McNemar:
    """Two classifiers on the same images; McNemar 1947, the exact test.

    Attributes:
        only_first_wrong: images that only the first answers wrongly.
        only_second_wrong: images that only the second answers wrongly.
        p_value: of a difference at least as large, were the two equally good.
    """

    only_first_wrong: int
    only_second_wrong: int
    p_value: float


def mcnemar(first_wrong: Wrong, second_wrong: Wrong) -> McNemar:
    """The exact test, two-sided: of the images that only one gets wrong, each has half."""
    from scipy.stats import binomtest

    first = int((first_wrong & ~second_wrong).sum())
    second = int((second_wrong & ~first_wrong).sum())
    trials = first + second
    p_value = 1.0 if trials == 0 else float(binomtest(first, trials, 0.5).pvalue)
    return McNemar(first, second, p_value)


def bootstrap_mean(
    differences: Array, *, resamplings: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the mean of paired differences, (N,): percentiles of resampled means.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    generator = np.random.default_rng(seed)
    images = len(differences)
    means = [
        differences[generator.integers(images, size=(_CHUNK, images))].mean(axis=1)
        for _ in range(-(-resamplings // _CHUNK))
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means)[:resamplings], [tail, 1 - tail])
    return float(low), float(high)


def calibrated_band(
    confidence: Array, binning: Binning, *, draws: int = 1000, seed: int = 0, bins: int = ECE_BINS
) -> tuple[float, float]:
    """The calibration error, 5th to 95th percentile, of a model that is perfectly calibrated.

    Each of its answers is right with the probability that it states. Finite samples alone give an
    error above 0: Vaicenavicius et al. 2019, "Evaluating Model Calibration in Classification".
    """
    generator = np.random.default_rng(seed)
    index = bin_numbers(confidence, bins, binning)
    gaps = [
        confidence_gap(confidence, generator.random(len(confidence)) < confidence, index, bins)
        for _ in range(draws)
    ]
    low, high = np.quantile(gaps, [0.05, 0.95])
    return float(low), float(high)


@dataclass(frozen=True)
class Spread:
    """Mean and range of what several seeds give."""

    mean: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(sum(values) / len(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        """`0.9165 (0.9160-0.9171)` for `.4f`; any format of floats will do."""
        mean, lowest, highest = (
            format(each, spec) for each in (self.mean, self.lowest, self.highest)
        )
        return f"{mean} ({lowest.removesuffix('%')}-{highest.removesuffix('%')})"
