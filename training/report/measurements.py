"""What is measured for the report; every measurement is a dictionary that JSON can hold.

Scores, calibration, abstaining and prediction sets on the test images; then other images, rotated
digits and out-of-distribution sets, and how many passes an answer needs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from tqdm import tqdm

from model.arrays import Array
from model.checkpoint import Network
from model.engines.protocol import sample_probs
from model.literals import Estimator, Mode
from model.sampling.masks import Passes
from model.uncertainty.calibration import apply_temperature, prediction_set
from training import metrics
from training.answers import (
    ABSTAINING_SCORE,
    McAnswers,
    Pixels,
    Subject,
    is_accepted,
    predict_all,
    sample_grid,
    uncertainty_scores,
)
from training.data import Images
from training.network import sample_logits

KINDS: tuple[Mode, ...] = get_args(Mode)
TITLES: dict[Mode, str] = {"predict": "deterministic", "mc": "MC dropout"}
_CURVE_POINTS = 200
# Gal and Ghahramani 2016, figure 4: a digit 1 in 12 rotations, 100 passes.
ANGLES = tuple(range(0, 180, 15))
_ROTATED_CLASS = 1
_HISTOGRAM_BINS = 40
# Convergence: passes, images, seeds, and passes of the reference.
PASSES = (2, 4, 8, 16, 32, 64, 128, 256)
_IMAGES = 40
_REPETITIONS = 16
_REFERENCE_PASSES = 10_000
_MOST_UNCERTAIN = 30
# What mutual information is worth with few passes is measured, too.
_FEW_PASSES = 5


def measure_scores(subject: Subject) -> dict[str, Any]:
    """Error, likelihood and calibration: deterministic and MC, uncalibrated and calibrated."""
    rows: dict[str, Any] = {}
    for kind in KINDS:
        rows[TITLES[kind]] = _row(subject.raw(kind), subject)
        rows[f"{TITLES[kind]}, calibrated"] = _row(subject.probabilities(kind), subject)
    labels = subject.images.labels
    mc, predict = (metrics.losses(subject.probabilities(kind), labels) for kind in KINDS[::-1])
    difference = mc - predict
    low, high = metrics.bootstrap_mean(difference)
    error = float(difference.std(ddof=1)) / len(difference) ** 0.5
    return {
        "rows": rows,
        "reliability": {
            TITLES[kind]: _reliability(subject.probabilities(kind), labels) for kind in KINDS
        },
        "nll_difference": {
            "mean": float(difference.mean()),
            "low": low,
            "high": high,
            "z": float(difference.mean()) / error if error > 0 else 0.0,
        },
    }


def _row(probs: Array, subject: Subject) -> dict[str, Any]:
    scores = metrics.score(probs, subject.images.labels)
    confidence = probs.max(axis=1)
    return {
        **asdict(scores),
        "error": scores.error,
        "ece_band": metrics.calibrated_band(confidence, "width"),
        "ece_mass_band": metrics.calibrated_band(confidence, "mass"),
    }


def _reliability(probs: Array, labels: NDArray[np.int64]) -> dict[str, list[float]]:
    """Images, mean confidence and accuracy of each bin of equal width; 0 where it is empty."""
    confidence, correct = probs.max(axis=1), probs.argmax(axis=1) == labels
    index = metrics.bin_numbers(confidence, metrics.ECE_BINS, "width")
    images = np.bincount(index, minlength=metrics.ECE_BINS)
    safe = np.maximum(images, 1)
    return {
        "images": images.tolist(),
        "confidence": (np.bincount(index, confidence, metrics.ECE_BINS) / safe).tolist(),
        "accuracy": (np.bincount(index, correct, metrics.ECE_BINS) / safe).tolist(),
    }


def measure_abstaining(subject: Subject) -> dict[str, Any]:
    """Risk against coverage per score, and what the stored thresholds and levels do."""
    wrong = subject.wrong("mc")
    curves = {
        name: metrics.risk_coverage(scores, wrong)
        for name, scores in uncertainty_scores(subject.predicted, subject.sampled).items()
    }
    best, oracle = curves[ABSTAINING_SCORE], metrics.oracle(wrong)
    return {
        "aurc": {name: curve.aurc for name, curve in curves.items()},
        "aurc_oracle": oracle.aurc,
        "coverage_at": {str(risk): best.coverage_at(risk) for risk in (0.001, 0.002)},
        "curves": {name: _points(each) for name, each in (curves | {"oracle": oracle}).items()},
        "decisions": {kind: _decisions(subject, kind) for kind in KINDS},
        "sets": {kind: _sets(subject, kind) for kind in KINDS},
    }


def _points(curve: metrics.RiskCoverage) -> dict[str, list[float]]:
    last = len(curve.coverage) - 1
    rows = np.unique(np.linspace(0, last, _CURVE_POINTS).astype(int))
    return {"coverage": curve.coverage[rows].tolist(), "risk": curve.risk[rows].tolist()}


def _decisions(subject: Subject, kind: Mode) -> dict[str, Any] | None:
    if (accepted := subject.accepted(kind)) is None:
        return None
    errors = int((subject.wrong(kind) & accepted).sum())
    return {
        "threshold": subject.calibration(kind).threshold,
        "unfamiliar_threshold": subject.calibration(kind).unfamiliar_threshold,
        "coverage": float(accepted.mean()),
        "errors": errors,
        "error": errors / max(int(accepted.sum()), 1),
    }


def _sets(subject: Subject, kind: Mode) -> dict[str, Any]:
    measured = {}
    for level, least in subject.calibration(kind).conformal_quantiles.items():
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
    compared: dict[str, Any] = {"version": other.checkpoint.version}
    for kind in KINDS:
        ours, theirs = subject.wrong(kind), other.wrong(kind)
        counts = {"errors": int(ours.sum()), "other_errors": int(theirs.sum())}
        compared[kind] = {**counts, **asdict(metrics.mcnemar(ours, theirs))}
    return compared


def rotate(pixels: Pixels, degrees: float) -> Pixels:
    """Images (N, H, W) turned counter-clockwise about their middle; black beyond the edges."""
    turned = [
        np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))
        for image in pixels
    ]
    return np.stack(turned)


def measure_rotated_digit(
    network: Network, images: Images, *, passes: int = 100, seed: int
) -> dict[str, Any]:
    """Every pass's softmax inputs and outputs for one digit in 12 rotations."""
    number = int(np.flatnonzero(images.labels == _ROTATED_CLASS)[0])
    digit = images.pixels[number : number + 1]
    turned = [rotate(digit, angle)[0] for angle in ANGLES]
    logits = [sample_logits(network, image, Passes(passes, seed)) for image in turned]
    return {
        "image": number,
        "angles": list(ANGLES),
        "labels": list(network.config.labels),
        "passes": passes,
        "pixels": [image.tolist() for image in turned],
        "logits": [each.astype(np.float64).round(4).tolist() for each in logits],
        "probabilities": [softmax(each, axis=1).round(4).tolist() for each in logits],
    }


def measure_rotation(subject: Subject) -> dict[str, Any]:
    """Accuracy, calibration and uncertainty of all test images against the angle."""
    rows: dict[str, list[float]] = {"angles": list(ANGLES)}
    for angle in tqdm(ANGLES, "rotated test images", unit="angle"):
        sampled = subject.sampled
        if angle:
            sampled = subject.sample(rotate(subject.images.pixels, angle))
        calibrated = apply_temperature(sampled.mean, subject.calibration("mc").temperature)
        scores = metrics.score(calibrated, subject.images.labels)
        accepted = is_accepted(
            sampled.predictive_entropy, subject.calibration("mc"), sampled.mutual_information
        )
        for name, value in {
            "accuracy": 1 - scores.error,
            "ece": scores.ece,
            "entropy": float(sampled.predictive_entropy.mean()),
            "accepted": 1.0 if accepted is None else float(accepted.mean()),
        }.items():
            rows.setdefault(name, []).append(value)
    return rows


def sample_others(
    subject: Subject, others: Mapping[str, Images | str]
) -> dict[str, Mapping[int, McAnswers]]:
    """Answers to the images of other sets, as they are, for each number of passes."""
    return {
        name: sample_grid(
            subject.engine,
            images.pixels,
            sorted({_FEW_PASSES, subject.passes}),
            seed=subject.seed,
            progress=name,
        )
        for name, images in others.items()
        if not isinstance(images, str)
    }


def measure_separation(
    subject: Subject,
    others: Mapping[str, Images | str],
    answers: Mapping[str, Mapping[int, McAnswers]],
) -> dict[str, dict[str, float]]:
    """AUROC of every uncertainty score, digits against the images of each set that was answered."""
    digits = uncertainty_scores(subject.predicted, subject.sampled)
    measured = {}
    for name, images in others.items():
        if not isinstance(images, str):
            predicted = predict_all(subject.engine, images.pixels)
            scores = uncertainty_scores(predicted, answers[name][subject.passes])
            measured[name] = {each: metrics.auroc(digits[each], scores[each]) for each in digits}
    return measured


def measure_unfamiliar(
    subject: Subject,
    others: Mapping[str, Images | str],
    answers: Mapping[str, Mapping[int, McAnswers]],
) -> dict[str, Any]:
    """How well each uncertainty score separates digits from other images.

    Args:
        subject: the network.
        others: per data set its images, which are not preprocessed, or why there are none.
        answers: of `sample_others`.
    """
    separation = measure_separation(subject, others, answers)
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
        predicted = predict_all(subject.engine, images.pixels)
        sampled = answers[name][subject.passes]
        of_both = Subject(
            subject.checkpoint, subject.engine, images, predicted, answers[name],
            subject.passes, subject.seed,
        )  # fmt: skip
        accepted = {kind: of_both.accepted(kind) for kind in KINDS}
        few, few_digits = answers[name][_FEW_PASSES], subject.by_passes[_FEW_PASSES]
        measured["sets"][name] = {
            "images": len(images),
            "auroc": separation[name],
            "histogram": _histogram(sampled.predictive_entropy, edges),
            "few_passes": _FEW_PASSES,
            "auroc_of_few": {
                measure: metrics.auroc(getattr(few_digits, measure), getattr(few, measure))
                for measure in ("predictive_entropy", "mutual_information")
            },
            "abstained": {
                kind: None if each is None else float((~each).mean())
                for kind, each in accepted.items()
            },
        }
    return measured


def _histogram(scores: Array, edges: Array) -> list[float]:
    shares: list[float] = (np.histogram(scores, edges)[0] / len(scores)).tolist()
    return shares


def measure_convergence(subject: Subject) -> dict[str, Any]:
    """Root mean square error of mean and variance against a reference of many passes.

    Over the most uncertain test images, where passes matter, all classes, and several seeds.
    """
    uncertain = np.argsort(-subject.sampled.predictive_entropy, kind="stable")[:_IMAGES]
    statistics: dict[str, Callable[[Array], Array]] = {
        "mean": lambda probs: np.mean(probs, axis=0),
        "variance": lambda probs: np.var(probs, axis=0, ddof=1),
    }
    squares: dict[Estimator, dict[str, Array]] = {
        estimator: {name: np.zeros(len(PASSES)) for name in statistics}
        for estimator in get_args(Estimator)
    }
    for number in tqdm(uncertain, "convergence", unit="image"):
        pixels = subject.images.pixels[number]
        reference = _probs(subject, pixels, _REFERENCE_PASSES, 0, "independent")
        wanted = {name: of(reference) for name, of in statistics.items()}
        for estimator, errors in squares.items():
            for column, passes in enumerate(PASSES):
                for repetition in range(1, _REPETITIONS + 1):
                    probs = _probs(subject, pixels, passes, repetition, estimator)
                    for name, of in statistics.items():
                        errors[name][column] += float(np.square(of(probs) - wanted[name]).mean())
    samples = _IMAGES * _REPETITIONS
    return {
        "images": _IMAGES,
        "repetitions": _REPETITIONS,
        "reference_passes": _REFERENCE_PASSES,
        "passes": list(PASSES),
        "rmse": {
            estimator: {name: np.sqrt(sums / samples).tolist() for name, sums in errors.items()}
            for estimator, errors in squares.items()
        },
    }


def _probs(
    subject: Subject, pixels: Pixels, passes: int, repetition: int, estimator: Estimator
) -> Array:
    """Passes with a seed per repetition, far above the seeds of the test images."""
    seed = 2_000_000 + subject.seed + repetition
    probs = sample_probs(subject.engine, pixels, Passes(passes, seed, estimator))
    return probs.astype(np.float64)


def measure_uncertain(subject: Subject) -> dict[str, Any]:
    """The most uncertain digits, by predictive entropy."""
    order = np.argsort(-subject.sampled.predictive_entropy, kind="stable")[:_MOST_UNCERTAIN]
    return _gallery("The most uncertain digits - true: answer, entropy", subject, order)


def measure_errors(subject: Subject) -> dict[str, Any]:
    """All digits that MC dropout answers wrongly, the most certain first."""
    wrong = np.flatnonzero(subject.wrong("mc"))
    order = wrong[np.argsort(subject.sampled.predictive_entropy[wrong], kind="stable")]
    return _gallery("All errors, the most certain first - true: answer, entropy", subject, order)


def _gallery(title: str, subject: Subject, numbers: Iterable[Any]) -> dict[str, Any]:
    labels = subject.checkpoint.network.config.labels
    images = [
        {
            "number": int(number),
            "label": labels[subject.images.labels[number]],
            "answer": labels[subject.sampled.mean[number].argmax()],
            "entropy": float(subject.sampled.predictive_entropy[number]),
            "pixels": subject.images.pixels[number].tolist(),
        }
        for number in numbers
    ]
    return {"title": title, "images": images}
