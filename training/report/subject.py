"""The network under test with its answers to the test images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from model.checkpoint import Checkpoint
from model.engines.relu_mlp import Engine
from model.literals import Mode
from model.uncertainty.calibration import Calibration, apply_temperature, read_calibration
from model.uncertainty.statistics import Array, entropy
from training.answers import McAnswers, predict_all, sample_all
from training.data import Images


@dataclass(frozen=True)
class Subject:
    """A checkpoint and what it answers.

    Attributes:
        checkpoint: the network and its calibration.
        engine: what answers.
        images: the test images.
        predicted: deterministic probabilities, uncalibrated, (N, C).
        sampled: answers with dropout on.
        passes: stochastic passes an image.
        seed: image i has the seed `seed + i`.
    """

    checkpoint: Checkpoint
    engine: Engine
    images: Images
    predicted: Array
    sampled: McAnswers
    passes: int
    seed: int

    def calibration(self, kind: Mode) -> Calibration:
        """What was fitted for one kind of answer."""
        return read_calibration(self.checkpoint.calibration, kind)

    def raw(self, kind: Mode) -> Array:
        """Uncalibrated probabilities, (N, C)."""
        return self.predicted if kind == "predict" else self.sampled.mean

    def probabilities(self, kind: Mode) -> Array:
        """Calibrated probabilities, (N, C)."""
        return apply_temperature(self.raw(kind), self.calibration(kind).temperature)

    def wrong(self, kind: Mode) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which images are answered wrongly, (N,)."""
        wrong: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
            self.raw(kind).argmax(axis=1) != self.images.labels
        )
        return wrong


def answer_all(checkpoint: Checkpoint, images: Images, *, passes: int, seed: int) -> Subject:
    """Has a checkpoint answer the images."""
    engine = Engine(checkpoint.network)
    return Subject(
        checkpoint,
        engine,
        images,
        predict_all(engine, images.pixels),
        sample_all(engine, images.pixels, passes=passes, seed=seed, progress="test images"),
        passes,
        seed,
    )


def doubt_scores(predicted: Array, sampled: McAnswers) -> Mapping[str, Array]:
    """Every score of doubt, (N,) each, larger where doubt is larger."""
    favourite = sampled.mean.argmax(axis=1)
    return {
        "1 - confidence, deterministic": 1 - predicted.max(axis=1),
        "entropy, deterministic": entropy(predicted),
        "1 - confidence, MC": 1 - sampled.mean.max(axis=1),
        "predictive entropy, MC": sampled.predictive_entropy,
        "mutual information, MC": sampled.mutual_information,
        "variance of the favourite, MC": sampled.variance[np.arange(len(favourite)), favourite],
        "variation ratio, MC": sampled.variation_ratio,
    }


ABSTAINING_SCORE = "predictive entropy, MC"
