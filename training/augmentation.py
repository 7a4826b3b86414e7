"""What each epoch trains on: every image, shuffled and distorted, all drawn from seed and epoch.

The distortions are random affine and elastic ones (Simard et al. 2003), batch by batch.
"""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.literals import MAX_SEED
from training.config import TrainConfig
from training.corruption import corrupt
from training.data import Dataset, Images
from training.outliers import SHOWN, kinds_for, make_unfamiliar

# The streams of random numbers that a seed is split into.
WEIGHTS, EPOCH, DROPOUT, VIEW, INPUT_DROPOUT, OUTLIERS, CORRUPTION = range(7)
# Images distorted at a time: small enough for the intermediate grids to stay in the cache.
DISTORTION_CHUNK = 500
# The elastic field is a smooth random surface over a coarse grid of control points: as Simard's
# Gaussian-filtered noise, for a twelfth of the random numbers.
_CONTROL_POINTS = 8
_SMOOTHNESS = 4.0  # pixels; the width of the Gaussian bump at each control point


@dataclass(frozen=True)
class Distortion:
    """The bounds of a random distortion.

    Attributes:
        rotation: largest angle, degrees.
        scale: largest change of size per axis, as a share.
        shear: largest horizontal shear, as a share of the height.
        shift: largest shift per axis, pixels.
        elastic: standard deviation of the elastic displacement per axis, pixels.
    """

    rotation: float
    scale: float
    shear: float
    shift: float
    elastic: float

    @property
    def is_none(self) -> bool:
        """Whether images stay as they are."""
        return self == self.scaled(0)

    def scaled(self, strength: float) -> "Distortion":
        """The same distortion, weaker: 0 is none, 1 is all of it."""
        return Distortion(*(bound * strength for bound in vars(self).values()))


def distort(images: Tensor, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Distorts each image its own way, with bilinear interpolation and black beyond the edges.

    Args:
        images: float32, (B, H, W), H = W.
        distortion: the bounds; affine parameters are uniform within them.
        generator: a CPU generator, so that every device draws the same distortions.
    """
    B, side, _ = images.shape
    grid = _affine_grid(B, side, distortion, generator).to(images.device)  # (B, H, W, 2)
    if distortion.elastic > 0:
        grid = grid + _elastic_field(B, side, distortion.elastic, generator).to(images.device)
    return nn.functional.grid_sample(
        images.unsqueeze(1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    ).squeeze(1)


def _affine_grid(B: int, side: int, distortion: Distortion, generator: torch.Generator) -> Tensor:
    """Where each output pixel is read from, in grid_sample's units: the image spans -1 to 1."""
    u = torch.rand(B, 6, generator=generator) * 2 - 1
    angle = u[:, 0] * math.radians(distortion.rotation)
    scale_x = 1 + u[:, 1] * distortion.scale
    scale_y = 1 + u[:, 2] * distortion.scale
    shear = u[:, 3] * distortion.shear
    shift = u[:, 4:6] * (distortion.shift * 2 / side)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos / scale_x, (-sin + shear * cos) / scale_x, shift[:, 0]], dim=1),
        torch.stack([sin / scale_y, (cos + shear * sin) / scale_y, shift[:, 1]], dim=1),
    ]
    theta = torch.stack(rows, dim=1)  # (B, 2, 3)
    return nn.functional.affine_grid(theta, [B, 1, side, side], align_corners=False)


def _elastic_field(B: int, side: int, std: float, generator: torch.Generator) -> Tensor:
    """A smooth random displacement, (B, H, W, 2), of the given standard deviation in pixels."""
    basis = _smooth_basis(side)  # (K, side)
    K = basis.shape[0]
    noise = torch.randn(B * 2 * K, K, generator=generator)
    # The Gaussian is separable: one product along x, one along y. Flat products, since a batched
    # product of 28x28 matrices is ten times slower.
    along_x = (noise @ basis).view(B, 2, K, side).transpose(2, 3).reshape(-1, K)
    along_y = (along_x @ basis).view(B, 2, side, side)  # (B, axis, x, y)
    return along_y.permute(0, 3, 2, 1) * (std * 2 / side)


def _smooth_basis(side: int) -> Tensor:
    """Gaussian bumps at the control points, (K, side), scaled to a mean variance of 1."""
    positions = torch.arange(side, dtype=torch.float32)
    centres = torch.linspace(-2.0, side + 1.0, _CONTROL_POINTS)
    bumps = torch.exp(-((positions - centres[:, None]) ** 2) / (2 * _SMOOTHNESS**2))
    return bumps / bumps.square().sum(dim=0).mean().sqrt()


class Epoch(NamedTuple):
    """The images of one epoch, in the order of training.

    Attributes:
        pixels: ink 0 to 255, float32 or uint8, (N, 28, 28).
        labels: int64, (N,).
        teacher_logits: a teacher's, float32, (N, C); None without a teacher.
        outliers: ink of images that are not digits, as `pixels`, (M, 28, 28); None without any.
    """

    pixels: Tensor
    labels: Tensor
    teacher_logits: Tensor | None = None
    outliers: Tensor | None = None


class EpochSource(Protocol):
    """Makes epochs by their number, on the device."""

    def prepare(self, epoch: int, device: torch.device) -> Epoch: ...


def stream_seed(seed: int, *stream: int) -> int:
    """Independent seeds for each purpose (and epoch), all from the run's one."""
    word = np.random.SeedSequence([seed, *stream]).generate_state(1, np.uint64)[0]
    return int(word) & MAX_SEED


def make_epochs(
    source: EpochSource, first: int, stop: int, device: torch.device
) -> Iterator[Epoch]:
    """The epochs from `first` to before `stop`; the next one is made while one is trained on."""
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

    def __init__(
        self, config: TrainConfig, training: Images, pool: NDArray[np.uint8] | None = None
    ) -> None:
        self._config, self._dataset, self._pool = config, training.dataset, pool
        self._pixels = torch.from_numpy(training.pixels)
        self._labels = torch.from_numpy(training.labels)

    def prepare(self, epoch: int, device: torch.device) -> Epoch:
        config = self._config
        generator = torch.Generator().manual_seed(stream_seed(config.seed, EPOCH, epoch))
        order = torch.randperm(len(self._labels), generator=generator)
        distortion = full_distortion(config).scaled(augmentation_strength(config, epoch))
        if distortion.is_none:
            pixels = self._pixels[order].to(device, torch.float32)
        else:
            chunks = (self._pixels[rows] for rows in torch.split(order, DISTORTION_CHUNK))
            pixels = torch.cat(
                [distort(each.to(device, torch.float32), distortion, generator) for each in chunks]
            )
        labels = self._labels[order].to(device)
        return finish(Epoch(pixels, labels), config, epoch, self._dataset, self._pool)


def finish(
    made: Epoch,
    config: TrainConfig,
    number: int,
    dataset: Dataset,
    pool: NDArray[np.uint8] | None,
) -> Epoch:
    """The epoch of that number with its outliers, and with corruptions of both."""
    outliers = make_outliers(config, number, made.pixels, made.labels, dataset, pool)
    seed = stream_seed(config.seed, CORRUPTION, number)
    pixels = corrupt(made.pixels, config.corruption, seed)
    if outliers is not None:
        outliers = corrupt(outliers, config.corruption, seed + 1)
    return made._replace(pixels=pixels, outliers=outliers)


def outliers_per_batch(config: TrainConfig) -> int:
    """How many outliers each step sees."""
    return round(config.outliers * config.batch_size)


def make_outliers(
    config: TrainConfig,
    epoch: int,
    pixels: Tensor,
    labels: Tensor,
    dataset: Dataset,
    pool: NDArray[np.uint8] | None = None,
) -> Tensor | None:
    """Outliers for all steps of an epoch, (M, 28, 28), uint8.

    They are made from the epoch's own digits and, in part, drawn from a pool and distorted.
    """
    total = outliers_per_batch(config) * (len(labels) // config.batch_size)
    if total == 0:
        return None
    seed = stream_seed(config.seed, OUTLIERS, epoch)
    count = total if pool is None else total - round(config.pool_share * total)
    rounded = pixels.round().clamp(0, 255).to(torch.uint8)
    digits = Images(rounded.cpu().numpy(), labels.cpu().numpy(), dataset)
    per_kind = -(-count // len(kinds_for(dataset, SHOWN)))
    outliers = make_unfamiliar(digits, per_kind, seed, SHOWN)
    generator = np.random.default_rng(seed)
    outliers = outliers[generator.permutation(len(outliers))[:count]]
    if pool is not None:
        drawn = torch.from_numpy(_draw_from(pool, total - count, generator))
        strength = full_distortion(config).scaled(augmentation_strength(config, epoch))
        if not strength.is_none:
            of_torch = torch.Generator().manual_seed(seed)
            chunks = torch.split(drawn.to(torch.float32), DISTORTION_CHUNK)
            distorted = torch.cat([distort(each, strength, of_torch) for each in chunks])
            drawn = distorted.round().clamp(0, 255).to(torch.uint8)
        outliers = generator.permutation(np.concatenate([outliers, drawn.numpy()]))
    return torch.from_numpy(outliers).to(pixels.device)


def _draw_from(
    pool: NDArray[np.uint8], count: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Images of the pool at random; none twice before all were drawn."""
    rounds = [generator.permutation(len(pool)) for _ in range(-(-count // len(pool)))]
    return pool[np.concatenate(rounds)[:count]]


def full_distortion(config: TrainConfig) -> Distortion:
    whole = Distortion(config.rotation, config.scale, config.shear, config.shift, config.elastic)
    return whole.scaled(config.augmentation)


def augmentation_strength(config: TrainConfig, epoch: int) -> float:
    """1, then falling linearly towards `relax_to` over the last `relax` of the epochs."""
    remaining = (config.epochs - epoch) / config.epochs
    faded = min(1.0, remaining / config.relax) if config.relax > 0 else 1.0
    return config.relax_to + (1 - config.relax_to) * faded
