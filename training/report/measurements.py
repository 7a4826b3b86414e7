"""What is measured on the test images: scores, calibration, abstaining, prediction sets."""

from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from model.literals import Mode
from model.uncertainty.calibration import prediction_set
from model.uncertainty.statistics import Array, entropy
from training.metrics import ECE_BINS, bin_numbers, losses, score
from training.report.subject import ABSTAINING_SCORE, Subject, doubt_scores
from training.selective import RiskCoverage, oracle, risk_coverage
from training.significance import bootstrap_mean, calibrated_band, mcnemar

KINDS: tuple[Mode, ...] = get_args(Mode)
TITLES: dict[Mode, str] = {"predict": "deterministic", "mc": "MC dropout"}
_CURVE_POINTS = 200


def measure_scores(subject: Subject) -> dict[str, Any]:
    """Error, likelihood and calibration: deterministic and MC, uncalibrated and calibrated."""
    rows: dict[str, Any] = {}
    for kind in KINDS:
        rows[TITLES[kind]] = _row(subject.raw(kind), subject)
        rows[f"{TITLES[kind]}, calibrated"] = _row(subject.probabilities(kind), subject)
    labels = subject.images.labels
    difference = losses(subject.probabilities("mc"), labels) - losses(
        subject.probabilities("predict"), labels
    )
    low, high = bootstrap_mean(difference)
    return {
        "rows": rows,
        "reliability": {
            TITLES[kind]: _reliability(subject.probabilities(kind), labels) for kind in KINDS
        },
        "nll_difference": {"mean": float(difference.mean()), "low": low, "high": high},
    }


def _row(probs: Array, subject: Subject) -> dict[str, Any]:
    scores = score(probs, subject.images.labels)
    confidence = probs.max(axis=1)
    return {
        **asdict(scores),
        "error": scores.error,
        "ece_band": calibrated_band(confidence, "width"),
        "ece_mass_band": calibrated_band(confidence, "mass"),
    }


def _reliability(probs: Array, labels: NDArray[np.int64]) -> dict[str, list[float]]:
    """Images, mean confidence and accuracy of each bin of equal width; 0 where it is empty."""
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    index = bin_numbers(confidence, ECE_BINS, "width")
    images = np.bincount(index, minlength=ECE_BINS)
    safe = np.maximum(images, 1)
    return {
        "images": images.tolist(),
        "confidence": (np.bincount(index, confidence, ECE_BINS) / safe).tolist(),
        "accuracy": (np.bincount(index, correct, ECE_BINS) / safe).tolist(),
    }


def measure_abstaining(subject: Subject) -> dict[str, Any]:
    """Risk against coverage per score, and the stored thresholds and prediction sets at work."""
    wrong = subject.wrong("mc")
    curves = {
        name: risk_coverage(doubt, wrong)
        for name, doubt in doubt_scores(subject.predicted, subject.sampled).items()
    }
    best = curves[ABSTAINING_SCORE]
    return {
        "aurc": {name: curve.aurc for name, curve in curves.items()},
        "aurc_oracle": oracle(wrong).aurc,
        "coverage_at": {str(risk): best.coverage_at(risk) for risk in (0.001, 0.002)},
        "curves": {
            **{name: _points(curve) for name, curve in curves.items()},
            "oracle": _points(oracle(wrong)),
        },
        "decisions": {kind: _decisions(subject, kind) for kind in KINDS},
        "sets": {kind: _sets(subject, kind) for kind in KINDS},
    }


def _points(curve: RiskCoverage) -> dict[str, list[float]]:
    last = len(curve.coverage) - 1
    rows = np.unique(np.linspace(0, last, _CURVE_POINTS).astype(int))
    return {"coverage": curve.coverage[rows].tolist(), "risk": curve.risk[rows].tolist()}


def doubt_of(subject: Subject, kind: Mode) -> Array:
    """What the stored threshold is compared with, (N,)."""
    return entropy(subject.predicted) if kind == "predict" else subject.sampled.predictive_entropy


def _decisions(subject: Subject, kind: Mode) -> dict[str, Any] | None:
    threshold = subject.calibration(kind).threshold
    if threshold is None:
        return None
    accepted = doubt_of(subject, kind) <= threshold
    errors = int((subject.wrong(kind) & accepted).sum())
    return {
        "threshold": threshold,
        "coverage": float(accepted.mean()),
        "errors": errors,
        "error": errors / max(int(accepted.sum()), 1),
    }


def _sets(subject: Subject, kind: Mode) -> dict[str, Any]:
    measured = {}
    for level, least in subject.calibration(kind).least_probabilities.items():
        sets = [prediction_set(each, least) for each in subject.probabilities(kind)]
        covered = [label in each for label, each in zip(subject.images.labels, sets, strict=True)]
        measured[str(level)] = {
            "coverage": float(np.mean(covered)),
            "mean_size": float(np.mean([len(each) for each in sets])),
            "single": float(np.mean([len(each) == 1 for each in sets])),
        }
    return measured


def measure_against(subject: Subject, other: Subject) -> dict[str, Any]:
    """Whether another checkpoint answers the same images worse or better."""
    return {
        "version": other.checkpoint.version,
        **{
            kind: {
                "errors": int(subject.wrong(kind).sum()),
                "other_errors": int(other.wrong(kind).sum()),
                **asdict(mcnemar(subject.wrong(kind), other.wrong(kind))),
            }
            for kind in KINDS
        },
    }
