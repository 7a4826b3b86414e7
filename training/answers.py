"""The engine's answers to many images: what calibration is fitted on and reports are made from."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from model.checkpoint import Checkpoint
from model.engines.relu_mlp import Engine
from model.literals import Estimator
from model.network import MLP, round_rate
from model.sampling.masks import Passes
from model.uncertainty.statistics import Array, summarise
from training.data import DATASETS, Dataset
from training.errors import TrainingError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class McAnswers:
    """What MC dropout says about N images.

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

    def __getitem__(self, rows: slice) -> "McAnswers":
        return McAnswers(
            self.mean[rows],
            self.variance[rows],
            self.predictive_entropy[rows],
            self.mutual_information[rows],
            self.variation_ratio[rows],
        )


def predict_all(engine: Engine, pixels: Pixels) -> Array:
    """Deterministic probabilities of the images (N, H, W): (N, C)."""
    return np.stack([engine.predict_probs(image) for image in pixels]).astype(np.float64)


def sample_all(
    engine: Engine,
    pixels: Pixels,
    *,
    passes: int,
    seed: int,
    estimator: Estimator = "independent",
    progress: str | None = None,
) -> McAnswers:
    """Answers with dropout on.

    Args:
        engine: what answers.
        pixels: ink 0 to 255, (N, H, W).
        passes: stochastic passes an image, at least 2.
        seed: image i gets the seed `seed + i`.
        estimator: how masks are drawn.
        progress: the name of a progress bar; None shows none.
    """
    summaries = [
        summarise(engine.sample_probs(image, Passes(passes, seed + number, estimator)))
        for number, image in enumerate(tqdm(pixels, progress, disable=progress is None))
    ]
    return McAnswers(
        mean=np.stack([each.mean for each in summaries]),
        variance=np.stack([each.variance for each in summaries if each.variance is not None]),
        predictive_entropy=np.array([each.predictive_entropy for each in summaries]),
        mutual_information=np.array([each.mutual_information for each in summaries]),
        variation_ratio=np.array([1 - each.votes.max() / passes for each in summaries]),
    )


def with_rates(network: MLP, rates: tuple[float, ...]) -> MLP:
    """The same weights under other dropout rates, rounded to multiples of 1/256."""
    rounded = tuple(round_rate(rate) for rate in rates)
    with torch.device("meta"):
        other = MLP(replace(network.config, dropout_rates=rounded))
    other.load_state_dict(network.state_dict(), assign=True)
    return other.requires_grad_(False)


def dataset_of(checkpoint: Checkpoint) -> Dataset:
    """The data set that the checkpoint was trained on.

    Raises:
        TrainingError: it is none that can be loaded.
    """
    try:
        return DATASETS[checkpoint.name]
    except KeyError as error:
        raise TrainingError(
            f"the checkpoint was trained on {checkpoint.name!r}; known are {', '.join(DATASETS)}"
        ) from error
