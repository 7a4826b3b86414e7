"""Scores of predicted class probabilities: error, likelihood, Brier score, calibration error."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.uncertainty.statistics import Array

Labels = NDArray[np.int64]
Binning = Literal["width", "mass"]

ECE_BINS = 15


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
        bins: how many.
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
