"""What is measured on other images: rotated digits, and what is no digit at all."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model.sampling.masks import Passes
from model.uncertainty.calibration import apply_temperature
from model.uncertainty.statistics import Array
from training.answers import predict_all, sample_all
from training.metrics import score
from training.report.measurements import KINDS
from training.report.subject import Subject, doubt_scores
from training.selective import auroc

Pixels = NDArray[np.uint8]

# Gal and Ghahramani 2016, figure 4: a digit 1 in 12 rotations, 100 passes.
ANGLES = tuple(range(0, 180, 15))
_ROTATED_CLASS = 1
_ROTATED_PASSES = 100
_HISTOGRAM_BINS = 40


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Images (N, H, W) turned counter-clockwise about their middle; black beyond the edges."""
    turned = [
        np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))
        for image in pixels
    ]
    return np.stack(turned)


def measure_rotated_digit(subject: Subject) -> dict[str, Any]:
    """Every pass's probabilities for one digit in 12 rotations."""
    number = int(np.flatnonzero(subject.images.labels == _ROTATED_CLASS)[0])
    digit = subject.images.pixels[number : number + 1]
    images = [rotate(digit, angle)[0] for angle in ANGLES]
    probs = [
        subject.engine.sample_probs(image, Passes(_ROTATED_PASSES, subject.seed))
        for image in images
    ]
    return {
        "image": number,
        "angles": list(ANGLES),
        "passes": _ROTATED_PASSES,
        "pixels": [image.tolist() for image in images],
        "probabilities": [each.astype(np.float64).round(4).tolist() for each in probs],
    }


def measure_rotation(subject: Subject) -> dict[str, Any]:
    """Accuracy, calibration and doubt of all test images against the angle."""
    rows: dict[str, list[float]] = {"angles": list(ANGLES)}
    for angle in tqdm(ANGLES, "rotated test images", unit="angle"):
        sampled = subject.sampled
        if angle:
            turned = rotate(subject.images.pixels, angle)
            sampled = sample_all(subject.engine, turned, passes=subject.passes, seed=subject.seed)
        calibrated = apply_temperature(sampled.mean, subject.calibration("mc").temperature)
        scores = score(calibrated, subject.images.labels)
        threshold = subject.calibration("mc").threshold
        for name, value in {
            "accuracy": 1 - scores.error,
            "ece": scores.ece,
            "entropy": float(sampled.predictive_entropy.mean()),
            "accepted": float((sampled.predictive_entropy <= (threshold or np.inf)).mean()),
        }.items():
            rows.setdefault(name, []).append(value)
    return rows


def measure_unfamiliar(subject: Subject, others: Mapping[str, Pixels | str]) -> dict[str, Any]:
    """How well each score of doubt tells digits from other images, none of them preprocessed.

    Args:
        subject: the network and its answers to the digits.
        others: per data set its images, or why there are none.
    """
    digits = doubt_scores(subject.predicted, subject.sampled)
    top = float(np.log(len(subject.checkpoint.network.config.labels)))
    edges = np.linspace(0, top, _HISTOGRAM_BINS + 1)
    measured: dict[str, Any] = {
        "edges": edges.tolist(),
        "digits": _histogram(subject.sampled.predictive_entropy, edges),
        "sets": {},
    }
    for name, images in others.items():
        if isinstance(images, str):
            measured["sets"][name] = {"skipped": images}
            continue
        predicted = predict_all(subject.engine, images)
        sampled = sample_all(
            subject.engine, images, passes=subject.passes, seed=subject.seed, progress=name
        )
        scores = doubt_scores(predicted, sampled)
        doubts = {
            "predict": scores["entropy, deterministic"],
            "mc": sampled.predictive_entropy,
        }
        measured["sets"][name] = {
            "images": len(images),
            "auroc": {each: auroc(digits[each], scores[each]) for each in digits},
            "histogram": _histogram(sampled.predictive_entropy, edges),
            "abstained": {
                kind: _share_above(doubts[kind], subject.calibration(kind).threshold)
                for kind in KINDS
            },
        }
    return measured


def _histogram(doubt: Array, edges: Array) -> list[float]:
    counts, _ = np.histogram(doubt, edges)
    shares: list[float] = (counts / len(doubt)).tolist()
    return shares


def _share_above(doubt: Array, threshold: float | None) -> float | None:
    return None if threshold is None else float((doubt > threshold).mean())
