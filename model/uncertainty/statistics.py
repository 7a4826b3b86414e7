"""Statistics of the passes of MC dropout: their mean, their spread, and their entropies.

Unless stated otherwise, functions take the class probabilities of all passes, `probs`, with the
passes on the first axis: (T, C) for one image, (T, B, C) for several. They compute in float64 and
from the whole array, so an answer does not depend on how its passes were grouped. Logarithms are
natural.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from model.arrays import Array, Floats, Integers, Probs

AnyFloats = TypeVar("AnyFloats", Floats, Array)

_TINY = float(np.finfo(np.float64).tiny)


class Summary(NamedTuple):
    """All statistics of the passes of one image; see the functions of the same names.

    Attributes:
        mean: (C,).
        variance: (C,), or None for a single pass.
        standard_error: (C,), or None for a single pass.
        predictive_entropy: `entropy` of the mean, nats.
        expected_entropy: nats.
        mutual_information: nats.
        votes: (C,).
    """

    mean: Array
    variance: Array | None
    standard_error: Array | None
    predictive_entropy: float
    expected_entropy: float
    mutual_information: float
    votes: Integers


class Summaries(NamedTuple):
    """The summaries of B images: `Summary` with the images on the first axis of each array."""

    mean: Array
    variance: Array | None
    standard_error: Array | None
    predictive_entropy: Array
    expected_entropy: Array
    mutual_information: Array
    votes: Integers


def summarise(probs: Probs) -> Summary:
    """Computes all statistics of one image, (T, C).

    The results have the bits of the single functions, in half the time.
    """
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
    """Computes the statistics of several images, each (T, C) with the same T.

    Each image has the bits that it has alone. For fifty passes NumPy's calls cost more than their
    arithmetic, and here images share them.
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
    # Each class of each image has its own bin.
    bins = p.argmax(axis=2) + np.arange(0, images * classes, classes)[:, None]
    counts = np.bincount(bins.reshape(-1), minlength=images * classes).reshape(images, classes)
    information = np.maximum(total - expected, 0.0)
    return Summaries(centres, spreads, errors, total, expected, information, counts)


def mean(probs: Probs) -> Array:
    """Computes the mean over the passes, (C,) or (B, C).

    This is the MC-dropout prediction; Gal and Ghahramani 2016, equation 6.
    """
    result: Array = _in_one_layout(probs).mean(axis=0)
    return result


def variance(probs: Probs) -> Array:
    """Computes the unbiased variance over the passes, (C,) or (B, C).

    The denominator is T - 1, so T must be at least 2.
    """
    p = _in_one_layout(probs)
    deviations = p - p.mean(axis=0)
    result: Array = np.square(deviations, out=deviations).sum(axis=0) / (len(p) - 1)
    return result


def standard_error(probs: Probs) -> Array:
    """Computes the Monte Carlo standard error of the mean, s / sqrt(T), (C,) or (B, C).

    T must be at least 2. The standard error is unreliable where the mean is below about 1 / T,
    since the distribution of a pass is very skewed there. For balanced masks it is too large, since
    their passes are not independent.
    """
    result: Array = np.sqrt(variance(probs) / len(probs))
    return result


def entropy(probs: Probs) -> Array:
    """Computes the Shannon entropy over the last axis, nats, 0 to ln C; x log x is 0 at 0.

    The entropy of the mean over the passes is the predictive entropy: the total predictive
    uncertainty.
    """
    return _negative_sum(_x_log_x(_in_one_layout(probs)))


def expected_entropy(probs: Probs) -> Array:
    """Computes the mean of the passes' entropies, nats, a scalar or (B,).

    This is the part of the predictive uncertainty that lies in the image (aleatoric).
    """
    # Passes and classes on adjacent axes: the terms of an image are one sum, alone or among others.
    p = _in_one_layout(np.moveaxis(probs, 0, -2))  # (T, C) or (B, T, C)
    return _negative_sum(_x_log_x(p).reshape(*p.shape[:-2], -1)) / len(probs)


def _x_log_x(p: Array) -> Array:
    logs = finite_log(p)  # 0 times a finite number is 0
    return np.multiply(p, logs, out=logs)


def finite_log(p: Array) -> Array:
    """Computes the natural logarithm, with the smallest normal number in place of 0."""
    result: Array = np.log(np.maximum(p, _TINY))
    return result


def softmax_in_place(z: AnyFloats, axis: int) -> AnyFloats:
    """Computes the softmax of logits over an axis, in the memory of `z`, and returns `z`."""
    z -= z.max(axis=axis, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=axis, keepdims=True)
    return z


def _negative_sum(terms: Array) -> Array:
    """Minus the sum over the last axis, not below 0."""
    result: Array = np.maximum(-np.add.reduce(terms, axis=-1), 0.0)
    return result


def mutual_information(probs: Probs) -> Array:
    """Computes predictive minus expected entropy, nats, a scalar or (B,).

    This is the part of the predictive uncertainty that lies in the model (epistemic), known as
    BALD; Houlsby et al. 2011, "Bayesian Active Learning for Classification and Preference
    Learning", equation 2. It is clamped at 0, since rounding can make the difference negative where
    all passes agree.
    """
    return np.maximum(entropy(mean(probs)) - expected_entropy(probs), 0.0)


def votes(probs: Probs) -> Integers:
    """Counts the passes that chose each class, (C,) or (B, C); ties go to the lower class index."""
    choices = np.asarray(probs).argmax(axis=-1)  # (T,) or (T, B)
    classes = np.arange(probs.shape[-1])
    result: Integers = (choices[..., None] == classes).sum(axis=0)
    return result


def _in_one_layout(probs: Probs) -> Array:
    """Converts to float64 in C order; sums in another memory order differ in their last bits."""
    return np.ascontiguousarray(probs, dtype=np.float64)
