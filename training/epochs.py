"""What each epoch trains on: every image, shuffled and distorted, all drawn from seed and epoch."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from model.literals import MAX_SEED
from training.augmentation import Distortion, distort
from training.config import TrainConfig
from training.data import Dataset, Images
from training.pseudo_ood import SHOWN, kinds_for, make_unfamiliar

# The streams of random numbers that a seed is split into.
WEIGHTS, EPOCH, DROPOUT, VIEW, INPUT_DROPOUT, OUTLIERS = range(6)
# Images distorted at a time: small enough for the intermediate grids to stay in the cache.
DISTORTION_CHUNK = 500


class Epoch(NamedTuple):
    """The images of one epoch, in the order of training.

    Attributes:
        pixels: ink 0 to 255, float32 or uint8, (N, 28, 28).
        labels: int64, (N,).
        opinions: a teacher's logits, float32, (N, C); None without a teacher.
        outliers: ink of images that are no digits, as `pixels`, (M, 28, 28); None: there are none.
    """

    pixels: Tensor
    labels: Tensor
    opinions: Tensor | None = None
    outliers: Tensor | None = None


class EpochSource(Protocol):
    """Makes epochs by their number."""

    def prepare(self, epoch: int, device: torch.device) -> Epoch:
        """Makes one epoch, on the device."""


def stream_seed(seed: int, *stream: int) -> int:
    """Independent seeds for each purpose (and epoch), all from the run's one."""
    word = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return int(word) & MAX_SEED


def make_epochs(
    source: EpochSource, first: int, stop: int, device: torch.device
) -> Iterator[Epoch]:
    """The epochs from `first` to before `stop`; one is made while the last is trained on."""
    if first >= stop:
        return
    with ThreadPoolExecutor(max_workers=1) as pool:
        upcoming = pool.submit(source.prepare, first, device)
        for epoch in range(first + 1, stop):
            current = upcoming.result()
            upcoming = pool.submit(source.prepare, epoch, device)
            yield current
        yield upcoming.result()


class FreshImages:
    """Distorts the images anew in each epoch."""

    def __init__(self, config: TrainConfig, training: Images) -> None:
        self._config = config
        self._pixels = torch.from_numpy(training.pixels)
        self._labels = torch.from_numpy(training.labels)
        self._dataset = training.dataset

    def prepare(self, epoch: int, device: torch.device) -> Epoch:
        """Makes one epoch, on the device."""
        config = self._config
        generator = torch.Generator().manual_seed(stream_seed(config.seed, EPOCH, epoch))
        order = torch.randperm(len(self._labels), generator=generator)
        distortion = full_distortion(config).scaled(augmentation_strength(config, epoch))
        if distortion.is_none:
            pixels = self._pixels[order].to(device, torch.float32)
        else:
            distorted = [
                distort(self._pixels[rows].to(device, torch.float32), distortion, generator)
                for rows in torch.split(order, DISTORTION_CHUNK)
            ]
            pixels = torch.cat(distorted)
        labels = self._labels[order].to(device)
        outliers = make_outliers(config, epoch, pixels, labels, self._dataset)
        return Epoch(pixels, labels, outliers=outliers)


def outliers_per_batch(config: TrainConfig) -> int:
    """How many images that are no digits each step sees."""
    return round(config.outliers * config.batch_size)


def make_outliers(
    config: TrainConfig, epoch: int, pixels: Tensor, labels: Tensor, dataset: Dataset
) -> Tensor | None:
    """Images that are no digits for all steps of an epoch, made from the epoch's own digits."""
    count = outliers_per_batch(config) * (len(labels) // config.batch_size)
    if count == 0:
        return None
    seed = stream_seed(config.seed, OUTLIERS, epoch)
    rounded = pixels.round().clamp(0, 255).to(torch.uint8)
    digits = Images(rounded.cpu().numpy(), labels.cpu().numpy(), dataset)
    per_kind = -(-count // len(kinds_for(dataset, SHOWN)))
    outliers = make_unfamiliar(digits, per_kind, seed, SHOWN)
    order = np.random.default_rng(seed).permutation(len(outliers))[:count]
    return torch.from_numpy(outliers[order]).to(pixels.device)


def full_distortion(config: TrainConfig) -> Distortion:
    """The augmentation at its full strength."""
    whole = Distortion(config.rotation, config.scale, config.shear, config.shift, config.elastic)
    return whole.scaled(config.augmentation)


def augmentation_strength(config: TrainConfig, epoch: int) -> float:
    """1, then falling linearly towards `relax_to` over the last `relax` of the epochs."""
    remaining = (config.epochs - epoch) / config.epochs
    faded = min(1.0, remaining / config.relax) if config.relax > 0 else 1.0
    return config.relax_to + (1 - config.relax_to) * faded
