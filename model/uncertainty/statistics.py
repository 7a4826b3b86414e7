"""Statistics of the passes of MC dropout: their mean, their spread, and their entropies.

All are computed in float64 and from the whole array of an image's passes, (T, C), one pass after
the other, so an answer does not depend on how its passes were grouped. Logarithms are natural.
"""

from typing import NamedTuple

import numpy as np

from model.arrays import Array, Integers, Probs
from model.compiling import compiled
from model.elementary import log

# 0 times the logarithm of this is 0.
_TINY = float(np.finfo(np.float64).tiny)


class Summary(NamedTuple):
    """All statistics of the passes of one image.

    Attributes:
        mean: over the passes, (C,): the MC-dropout prediction; Gal and Ghahramani 2016, equation 6.
        variance: unbiased, with the denominator T - 1, (C,); None for a single pass.
        standard_error: the Monte Carlo standard error of the mean, s / sqrt(T), (C,); None for a
            single pass. It is unreliable where the mean is below about 1 / T, since the
            distribution of a pass is very skewed there. For balanced masks it is too large, since
            their passes are not independent.
        predictive_entropy: `entropy` of the mean, nats: the total predictive uncertainty.
        expected_entropy: mean of the passes' entropies, nats: the part of the predictive
            uncertainty that lies in the image (aleatoric).
        mutual_information: predictive minus expected entropy, nats: the part that lies in the model
            (epistemic), known as BALD; Houlsby et al. 2011, "Bayesian Active Learning for
            Classification and Preference Learning", equation 2. It is clamped at 0, since rounding
            can make the difference negative where all passes agree.
        votes: number of passes that chose each class, (C,); ties go to the lower class index.
    """

    mean: Array
    variance: Array | None
    standard_error: Array | None
    predictive_entropy: float
    expected_entropy: float
    mutual_information: float
    votes: Integers


def summarise(probs: Probs) -> Summary:
    """Computes all statistics of one image, (T, C)."""
    p = np.array(probs, np.float64, order="C")
    per_class, votes = np.empty((3, p.shape[1])), np.zeros(p.shape[1], np.int64)
    predictive, expected = _summarise(p, per_class, votes)
    has_spread = len(p) > 1
    return Summary(
        mean=per_class[0],
        variance=per_class[1] if has_spread else None,
        standard_error=per_class[2] if has_spread else None,
        predictive_entropy=predictive,
        expected_entropy=expected,
        mutual_information=max(predictive - expected, 0.0),
        votes=votes,
    )


class Summaries(NamedTuple):
    """The statistics of many images, as of one, with an axis for these in front."""

    mean: Array
    variance: Array | None
    predictive_entropy: Array
    expected_entropy: Array
    mutual_information: Array
    votes: Integers


def summarise_images(probs: Probs) -> Summaries:
    """Computes the same for many images, (B, T, C)."""
    images, passes, classes = probs.shape
    per_class, votes = np.empty((images, 3, classes)), np.zeros((images, classes), np.int64)
    entropies = np.empty((images, 2))
    _summarise_images(np.ascontiguousarray(probs, np.float32), per_class, votes, entropies)
    predictive, expected = entropies.T
    information = np.maximum(predictive - expected, 0.0)
    variance = per_class[:, 1] if passes > 1 else None
    return Summaries(per_class[:, 0], variance, predictive, expected, information, votes)


def entropy(probs: Probs) -> Array:
    """Computes the Shannon entropy over the last axis, nats, 0 to ln C; x log x is 0 at 0."""
    p = np.array(probs, np.float64, order="C")
    found = np.empty(p.shape[:-1])
    _entropies(p.reshape(-1, p.shape[-1]), found.reshape(-1))
    return found


@compiled("Tuple((float64, float64))(float64[:, ::1], float64[:, ::1], int64[::1])")
def _summarise(p: Array, per_class: Array, votes: Integers) -> tuple[float, float]:
    """Fills mean, variance and standard error, (3, C), and adds to the votes, (C,).

    Returns:
        The predictive and the expected entropy.
    """
    passes, classes = p.shape
    mean, variance, error = per_class[0], per_class[1], per_class[2]
    mean[:] = 0.0
    variance[:] = 0.0
    for t in range(passes):
        favourite = 0
        for c in range(classes):
            mean[c] += p[t, c]
            if p[t, c] > p[t, favourite]:
                favourite = c
        votes[favourite] += 1
    for c in range(classes):
        mean[c] /= passes
    for t in range(passes):
        for c in range(classes):
            variance[c] += (p[t, c] - mean[c]) * (p[t, c] - mean[c])
    for c in range(classes):
        variance[c] /= max(passes - 1, 1)
        error[c] = np.sqrt(variance[c] / passes)
    entropies = np.empty(passes)
    _entropies(p, entropies)
    expected = 0.0
    for t in range(passes):
        expected += entropies[t]
    total = np.empty(1)
    _entropies(mean.reshape(1, -1), total)
    return total[0], expected / passes


@compiled("void(float32[:, :, ::1], float64[:, :, ::1], int64[:, ::1], float64[:, ::1])")
def _summarise_images(probs: Probs, per_class: Array, votes: Integers, entropies: Array) -> None:
    for i in range(len(probs)):
        p = probs[i].astype(np.float64)
        entropies[i, 0], entropies[i, 1] = _summarise(p, per_class[i], votes[i])


@compiled("void(float64[:, ::1], float64[::1])")
def _entropies(p: Array, entropies: Array) -> None:
    flat = p.reshape(-1)
    terms = np.empty(len(flat))
    for i in range(len(flat)):  # one long loop, for vector instructions
        terms[i] = flat[i] * log(max(flat[i], _TINY))
    classes = p.shape[1]
    for row in range(len(p)):
        total = 0.0
        for c in range(classes):
            total -= terms[row * classes + c]
        entropies[row] = max(total, 0.0)
