"""Whether a difference on the same images could be chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from model.uncertainty.statistics import Array
from training.metrics import ECE_BINS, Binning, bin_numbers, confidence_gap

# Resampled at a time: indices of 100 resamplings of 10,000 images are 8 MB.
_CHUNK = 100


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


def mcnemar(first_wrong: NDArray[np.bool_], second_wrong: NDArray[np.bool_]) -> McNemar:
    """The exact test, two-sided: of the images that one of the two gets wrong, half are each's."""
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

    Args:
        confidence: the largest probability of each answer, (N,).
        binning: see `metrics.calibration_error`.
        draws: how often right and wrong are drawn.
        seed: of the draws.
        bins: how many.
    """
    generator = np.random.default_rng(seed)
    index = bin_numbers(confidence, bins, binning)
    gaps = [
        confidence_gap(confidence, generator.random(len(confidence)) < confidence, index, bins)
        for _ in range(draws)
    ]
    low, high = np.quantile(gaps, [0.05, 0.95])
    return float(low), float(high)
