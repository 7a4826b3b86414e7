"""How fast mean and variance settle as passes are added, with independent and balanced masks."""

from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.literals import Estimator
from model.sampling.masks import Passes
from model.uncertainty.statistics import Array, mean, variance
from training.report.subject import Subject

PASSES = (2, 4, 8, 16, 32, 64, 128, 256)
_IMAGES = 40
_REPETITIONS = 16
_REFERENCE_PASSES = 10_000


def measure_convergence(subject: Subject) -> dict[str, Any]:
    """Root mean square error of mean and variance against a reference of many passes.

    Over the most doubtful test images, where passes matter, all classes, and several seeds.
    """
    doubtful = np.argsort(-subject.sampled.predictive_entropy, kind="stable")[:_IMAGES]
    squares: dict[str, dict[str, Array]] = {
        estimator: {name: np.zeros(len(PASSES)) for name in ("mean", "variance")}
        for estimator in get_args(Estimator)
    }
    for number in tqdm(doubtful, "convergence", unit="image"):
        pixels = subject.images.pixels[number]
        reference = _probs(subject, pixels, _REFERENCE_PASSES, 0, "independent")
        wanted = {"mean": mean(reference), "variance": variance(reference)}
        for estimator, errors in squares.items():
            for column, passes in enumerate(PASSES):
                for repetition in range(1, _REPETITIONS + 1):
                    probs = _probs(subject, pixels, passes, repetition, estimator)
                    found = {"mean": mean(probs), "variance": variance(probs)}
                    for name, value in found.items():
                        errors[name][column] += float(np.square(value - wanted[name]).mean())
    return {
        "images": _IMAGES,
        "repetitions": _REPETITIONS,
        "reference_passes": _REFERENCE_PASSES,
        "passes": list(PASSES),
        "rmse": {
            estimator: {
                name: np.sqrt(total / (_IMAGES * _REPETITIONS)).tolist()
                for name, total in errors.items()
            }
            for estimator, errors in squares.items()
        },
    }


def _probs(
    subject: Subject, pixels: NDArray[np.uint8], passes: int, repetition: int, estimator: str
) -> NDArray[np.float32]:
    """Passes with seeds of their own per repetition, from far above those of the test images."""
    chosen: Estimator = "balanced" if estimator == "balanced" else "independent"
    seed = 2_000_000 + subject.seed + repetition
    return subject.engine.sample_probs(pixels, Passes(passes, seed, chosen))
