"""Scores of predicted class probabilities: error, negative log-likelihood, calibration error."""

from dataclasses import dataclass

import torch
from torch import Tensor

ECE_BINS = 15


@dataclass(frozen=True)
class Scores:
    """How good a set of answers is.

    Attributes:
        images: N, how many were scored.
        errors: how many were answered wrongly.
        nll: mean negative log-likelihood of the true class, nats.
        ece: expected calibration error, 0 to 1; see `calibration_error`.
    """

    images: int
    errors: int
    nll: float
    ece: float

    @property
    def error(self) -> float:
        """Share of wrong answers, 0 to 1."""
        return self.errors / self.images


def score(probs: Tensor, labels: Tensor) -> Scores:
    """Scores probabilities (N, C) against true classes (N,)."""
    wrong = int((probs.argmax(dim=1) != labels).sum())
    true_probs = probs.gather(1, labels[:, None]).double()
    # A probability can underflow to 0 in float32; its logarithm must stay finite.
    nll = float(-true_probs.clamp_min(torch.finfo(torch.float32).tiny).log().mean())
    return Scores(len(labels), wrong, nll, calibration_error(probs, labels))


def calibration_error(probs: Tensor, labels: Tensor, bins: int = ECE_BINS) -> float:
    """Expected calibration error: the mean gap of confidence and accuracy over equal-width bins.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|, Naeini et al. 2015; Guo et al. 2017, "On
    Calibration of Modern Neural Networks", equation 3. Bin b holds confidences in (b/n, (b+1)/n].

    Args:
        probs: (N, C).
        labels: (N,).
        bins: number of bins over [0, 1].
    """
    confidence, answers = probs.double().max(dim=1)
    correct = (answers == labels).double()
    index = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, index, correct - confidence)
    return float(gaps.abs().sum()) / len(labels)
