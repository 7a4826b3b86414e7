"""A checkpoint's answers to many images: what calibration fits and the report measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from model.arrays import Array
from model.checkpoint import AnyCheckpoint, load_any_checkpoint
from model.engines import build_engine
from model.engines.protocol import Engine, predict_probs, sample_probs
from model.errors import CheckpointError
from model.layered import spec_of
from model.literals import Mode
from model.sampling.masks import Passes
from model.uncertainty.calibration import Calibration, apply_temperature, read_calibration
from model.uncertainty.statistics import Summary, entropy, summarise
from training.data import DATASETS, Dataset, Images
from training.errors import TrainingError
from training.metrics import Wrong

Pixels = NDArray[np.uint8]
# The score that thresholds are held against.
ABSTAINING_SCORE = "predictive entropy, MC"


@dataclass(frozen=True)
class McAnswers:
    """MC dropout's answers to N images.

    Attributes:
        mean: mean of the passes' probabilities, (N, C).
        variance: their unbiased variance, (N, C).
        predictive_entropy: nats, (N,).
        mutual_information: nats, (N,).
        variation_ratio: share of the passes that did not choose the favourite, (N,).
    """

    mean: Array
    variance: Array
    predictive_entropy: Array
    mutual_information: Array
    variation_ratio: Array

    @classmethod
    def of(cls, summaries: Sequence[Summary], passes: int) -> "McAnswers":
        """The answers of N summaries; the variance of a single pass is 0."""
        nothing = np.zeros_like(summaries[0].mean)
        return cls(
            mean=np.stack([each.mean for each in summaries]),
            variance=np.stack(
                [nothing if each.variance is None else each.variance for each in summaries]
            ),
            predictive_entropy=np.array([each.predictive_entropy for each in summaries]),
            mutual_information=np.array([each.mutual_information for each in summaries]),
            variation_ratio=np.array([1 - each.votes.max() / passes for each in summaries]),
        )

    @classmethod
    def join(cls, parts: Sequence["McAnswers"]) -> "McAnswers":
        """The answers to all images of the parts."""
        names = [each.name for each in fields(cls)]
        return cls(**{n: np.concatenate([getattr(each, n) for each in parts]) for n in names})


def predict_all(engine: Engine, pixels: Pixels) -> Array:
    """Deterministic probabilities of the images (N, H, W): (N, C)."""
    return np.stack([predict_probs(engine, image) for image in pixels]).astype(np.float64)


def sample_all(
    engine: Engine, pixels: Pixels, *, passes: int, seed: int, progress: str | None = None
) -> McAnswers:
    """Answers to images, (N, H, W), with dropout on and independent masks.

    Image i gets the seed `seed + i`; `progress` is the title of a progress bar.
    """
    return sample_grid(engine, pixels, (passes,), seed=seed, progress=progress)[passes]


def sample_grid(
    engine: Engine,
    pixels: Pixels,
    grid: Sequence[int],
    *,
    seed: int,
    progress: str | None = None,
) -> dict[int, McAnswers]:
    """Answers with each number of passes, as `sample_all`; fewer passes are the first of more."""
    summaries: dict[int, list[Summary]] = {passes: [] for passes in grid}
    for number, image in enumerate(tqdm(pixels, progress, disable=progress is None)):
        probs = sample_probs(engine, image, Passes(max(grid), seed + number))
        for passes, found in summaries.items():
            found.append(summarise(probs[:passes]))
    return {passes: McAnswers.of(found, passes) for passes, found in summaries.items()}


def load_digit_network(path: Path) -> AnyCheckpoint:
    """Reads the checkpoint of any network for pictures of digits.

    Raises:
        CheckpointError: the file cannot be used, or the network takes other inputs.
    """
    checkpoint = load_any_checkpoint(path)
    if spec_of(checkpoint.network).preparation != "digit":
        raise CheckpointError(
            f"the checkpoint {path} takes no pictures of digits, which this command needs"
        )
    return checkpoint


def dataset_of(checkpoint: AnyCheckpoint) -> Dataset:
    """The data set that the checkpoint was trained on.

    Raises:
        TrainingError: the set is unknown.
    """
    name = checkpoint.training.get("dataset", "unknown")
    try:
        return DATASETS[name]
    except KeyError as error:
        raise TrainingError(
            f"the checkpoint was trained on {name!r}; known are {', '.join(DATASETS)}"
        ) from error


@dataclass(frozen=True)
class Subject:
    """A checkpoint and its answers to the test images.

    Attributes:
        checkpoint: the network and its calibration.
        engine: the network.
        images: the test images.
        predicted: deterministic probabilities, uncalibrated, (N, C).
        by_passes: answers with dropout on, for each number of passes.
        passes: stochastic passes an image.
        seed: image i has the seed `seed + i`.
    """

    checkpoint: AnyCheckpoint
    engine: Engine
    images: Images
    predicted: Array
    by_passes: Mapping[int, McAnswers]
    passes: int
    seed: int

    @property
    def sampled(self) -> McAnswers:
        """Answers with dropout on."""
        return self.by_passes[self.passes]

    def calibration(self, kind: Mode, passes: int | None = None) -> Calibration:
        """Temperature, thresholds and prediction sets of one kind of answer."""
        return read_calibration(self.checkpoint.calibration, kind, passes or self.passes)

    def accepted(self, kind: Mode) -> Wrong | None:
        """Which images are accepted, (N,); None without a threshold."""
        sampled, calibration = self.sampled, self.calibration(kind)
        if kind == "predict":
            return is_accepted(entropy(self.predicted), calibration)
        return is_accepted(sampled.predictive_entropy, calibration, sampled.mutual_information)

    def raw(self, kind: Mode) -> Array:
        """Uncalibrated probabilities, (N, C)."""
        return self.predicted if kind == "predict" else self.sampled.mean

    def probabilities(self, kind: Mode) -> Array:
        """Calibrated probabilities, (N, C)."""
        return apply_temperature(self.raw(kind), self.calibration(kind).temperature)

    def wrong(self, kind: Mode) -> Wrong:
        """Which images are answered wrongly, (N,)."""
        wrong: Wrong = self.raw(kind).argmax(axis=1) != self.images.labels
        return wrong

    def sample(self, pixels: Pixels, progress: str | None = None) -> McAnswers:
        """Answers to other images, as to the test images."""
        return sample_all(
            self.engine, pixels, passes=self.passes, seed=self.seed, progress=progress
        )


def is_accepted(
    predictive_entropy: Array, calibration: Calibration, mutual_information: Array | None = None
) -> Wrong | None:
    """Which answers the thresholds accept, (N,), as `model.uncertainty.decisions.decide`."""
    if calibration.threshold is None:
        return None
    accepted: Wrong = predictive_entropy <= calibration.threshold
    if mutual_information is not None and calibration.unfamiliar_threshold is not None:
        accepted &= mutual_information <= calibration.unfamiliar_threshold
    return accepted


def answer_all(
    checkpoint: AnyCheckpoint, images: Images, *, passes: int, seed: int, grid: Sequence[int] = ()
) -> Subject:
    """Runs a checkpoint on the images, without dropout, with it, and with other passes, too."""
    engine = build_engine(checkpoint.network)
    predicted = predict_all(engine, images.pixels)
    every = sorted({*grid, passes})
    sampled = sample_grid(engine, images.pixels, every, seed=seed, progress="test images")
    return Subject(checkpoint, engine, images, predicted, sampled, passes, seed)


def uncertainty_scores(predicted: Array, sampled: McAnswers) -> Mapping[str, Array]:
    """Every uncertainty score, (N,) each; larger means less certain."""
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
