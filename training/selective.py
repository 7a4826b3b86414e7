"""Scores of doubt: what is gained by turning the most doubtful answers away."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from model.uncertainty.statistics import Array


@dataclass(frozen=True)
class RiskCoverage:
    """The error among what is accepted, as ever more is accepted.

    Attributes:
        coverage: 1/N, 2/N, ... 1, (N,).
        risk: share of errors among the so many least doubtful answers, (N,).
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


def risk_coverage(doubt: Array, wrong: NDArray[np.bool_]) -> RiskCoverage:
    """The curve of a score of doubt, (N,), against which answers were wrong, (N,).

    Equally doubtful answers share their errors evenly, so that their order does not matter.
    """
    images = len(doubt)
    _, group, sizes = np.unique(doubt, return_inverse=True, return_counts=True)
    share = np.bincount(group, weights=wrong) / sizes  # errors of each of a group's answers
    errors = np.cumsum(np.repeat(share, sizes))
    counts = np.arange(1, images + 1)
    risk = errors / counts
    return RiskCoverage(counts / images, risk, float(risk.mean()))


def oracle(wrong: NDArray[np.bool_]) -> RiskCoverage:
    """The curve of a score that knows which answers are wrong: no score does better."""
    return risk_coverage(wrong.astype(np.float64), wrong)


def auroc(familiar: Array, unfamiliar: Array) -> float:
    """Probability that an unfamiliar image has the higher score; ties count half."""
    is_unfamiliar = np.repeat([0, 1], [len(familiar), len(unfamiliar)])
    return float(roc_auc_score(is_unfamiliar, np.concatenate([familiar, unfamiliar])))
