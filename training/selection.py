"""Bounds of an error rate, and thresholds between scores: for everything that `calibrate` fits."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from model.arrays import Array

# Significant digits of stored numbers: more are noise, and differ between machines.
STORED_DIGITS = 4


def between(ordered: Array, last: int) -> float:
    """A value from that of an index to the next that is finite, rounded upwards."""
    following = ordered[min(last + 1, len(ordered) - 1)]
    middle = (ordered[last] + (following if np.isfinite(following) else ordered[last])) / 2
    scale = 10.0 ** (STORED_DIGITS + 2)
    return math.ceil(float(middle) * scale) / scale


def upper_bound(
    errors: NDArray[np.int64] | np.int64, trials: NDArray[np.int64] | np.int64, confidence: float
) -> Array:
    """Clopper and Pearson's one-sided upper bound of an error rate."""
    bound: Array = np.asarray(beta.ppf(confidence, errors + 1, trials - errors))
    return np.where(np.asarray(errors) == trials, 1.0, bound)
