"""Statistics of the passes: what N stochastic answers say together, and how far they disagree.

Every function is pure and takes the class probabilities of all passes, `probs`, with the passes on
the first axis: (T, C) for one image, (T, B, C) for several. Everything is computed in float64 and
from the whole array, so that an answer does not depend on how its passes were grouped. Logarithms
are natural.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Probs = NDArray[np.float32] | NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)


class Summary(NamedTuple):
    """All statistics of one image's passes.

    Attributes:
        mean: see `mean`; (C,).
        variance: see `variance`; (C,), or None for a single pass.
        standard_error: see `standard_error`; (C,), or None for a single pass.
        predictive_entropy: see `entropy` of the mean, nats.
        expected_entropy: see `expected_entropy`, nats.
        mutual_information: see `mutual_information`, nats.
        votes: see `votes`; int64, (C,).
    """

    mean: Array
    variance: Array | None
    standard_error: Array | None
    predictive_entropy: float
    expected_entropy: float
    mutual_information: float
    votes: NDArray[np.int64]


class Summaries(NamedTuple):
    """The summaries of B images, each an array with the images on its first axis; see `Summary`."""

    mean: Array
    variance: Array | None
    standard_error: Array | None
    predictive_entropy: Array
    expected_entropy: Array
    mutual_information: Array
    votes: NDArray[np.int64]


def summarise(probs: Probs) -> Summary:
    """All statistics of one image's passes, (T, C): as the functions below, in half the time."""
    found = summarise_together([probs])
    return Summary(
        mean=found.mean[0],
        variance=None if found.variance is None else found.variance[0],
        standard_error=None if found.standard_error is None else found.standard_error[0],
        predictive_entropy=float(found.predictive_entropy[0]),
        expected_entropy=float(found.expected_entropy[0]),
        mutual_information=float(found.mutual_information[0]),
        votes=found.votes[0],
    )


def summarise_together(probs: Sequence[Probs]) -> Summaries:
    """The summary of each image, (T, C), with the same bits as alone; T must be one for all.

    Of fifty passes NumPy's calls cost more than their arithmetic: here images share them.
    """
    p = np.array(probs, np.float64)  # (B, T, C)
    images, passes, classes = p.shape
    centres = np.add.reduce(p, axis=1) / passes
    spreads = errors = None
    if passes > 1:
        deviations = p - centres[:, None]
        spreads = np.add.reduce(np.square(deviations, out=deviations), axis=1) / (passes - 1)
        errors = np.sqrt(spreads / passes)
    total = entropy(centres)
    expected = _negative_sum(_x_log_x(p).reshape(images, -1)) / passes
    # Classes of different images are different bins.
    bins = p.argmax(axis=2) + np.arange(0, images * classes, classes)[:, None]
    counts = np.bincount(bins.reshape(-1), minlength=images * classes).reshape(images, classes)
    information = np.maximum(total - expected, 0.0)
    return Summaries(centres, spreads, errors, total, expected, information, counts)


def mean(probs: Probs) -> Array:
    """Mean over the passes: the MC-dropout prediction (Gal and Ghahramani 2016, equation 6)."""
    result: Array = _in_one_layout(probs).mean(axis=0)
    return result


def variance(probs: Probs) -> Array:
    """Unbiased variance over the passes, with T - 1 in the denominator; T must be at least 2."""
    p = _in_one_layout(probs)
    deviations = p - p.mean(axis=0)
    result: Array = np.square(deviations, out=deviations).sum(axis=0) / (len(p) - 1)
    return result


def standard_error(probs: Probs) -> Array:
    """Monte Carlo standard error of the mean, s / sqrt(T); T must be at least 2.

    Unreliable where the mean is below about 1 / T, since single passes are very skewed there, and
    too large for balanced masks, whose passes are not independent.
    """
    result: Array = np.sqrt(variance(probs) / len(probs))
    return result


def entropy(probs: Probs) -> Array:
    """Shannon entropy over the last axis, nats, 0 to ln C; x log x is 0 at 0.

    Of the mean over passes it is the predictive entropy: the total doubt.
    """
    return _negative_sum(_x_log_x(_in_one_layout(probs)))


def expected_entropy(probs: Probs) -> Array:
    """Mean of the passes' entropies, nats: doubt that lies in the image (aleatoric)."""
    # With the passes beside the classes, each image's terms are one sum, alone or among others.
    p = _in_one_layout(np.moveaxis(probs, 0, -2))  # (T, C) or (B, T, C)
    return _negative_sum(_x_log_x(p).reshape(*p.shape[:-2], -1)) / len(probs)


def _x_log_x(p: Array) -> Array:
    # The smallest normal number stands for 0 inside the logarithm: 0 times a finite number is 0.
    logs = np.log(np.maximum(p, _TINY))
    return np.multiply(p, logs, out=logs)


def _negative_sum(terms: Array) -> Array:
    """Of terms over the last axis, not below 0."""
    result: Array = np.maximum(-np.add.reduce(terms, axis=-1), 0.0)
    return result


def mutual_information(probs: Probs) -> Array:
    """Predictive minus expected entropy, nats, clamped at 0: the model's own doubt (epistemic).

    Known as BALD; Houlsby et al. 2011, "Bayesian Active Learning", equation 2. Rounding could make
    it negative where all passes agree.
    """
    return np.maximum(entropy(mean(probs)) - expected_entropy(probs), 0.0)


def votes(probs: Probs) -> NDArray[np.int64]:
    """How many passes chose each class; ties go to the lower class. Int64, (C,) or (B, C)."""
    choices = np.asarray(probs).argmax(axis=-1)  # (T,) or (T, B)
    classes = np.arange(probs.shape[-1])
    result: NDArray[np.int64] = (choices[..., None] == classes).sum(axis=0)
    return result


def _in_one_layout(probs: Probs) -> Array:
    """As float64 in C order: sums in another memory order would differ in their last bits."""
    return np.ascontiguousarray(probs, dtype=np.float64)
