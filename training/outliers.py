"""Outliers: images that are not digits, made from digits, for training and calibration.

Real ones, letters or another script, must stay unseen until the network is judged on them. Some
kinds are shown in training, so that the network learns to be uncertain about them (outlier
exposure, Hendrycks et al. 2019); calibration uses the others, which it was never shown.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.data import MNIST, Dataset, Images

Pixels = NDArray[np.uint8]

_PATCH = 7  # pixels; 4 x 4 patches of an image
# Digits whose mirror images are not digits; those of 0, 1 and 8 are.
_LOPSIDED = (2, 3, 4, 5, 6, 7, 9)


def shuffled(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """Digits cut into 16 square patches, in another order."""
    pixels = digits.pixels[generator.integers(len(digits), size=count)]
    side = pixels.shape[1] // _PATCH
    patches = pixels.reshape(count, side, _PATCH, side, _PATCH).transpose(0, 1, 3, 2, 4)
    patches = patches.reshape(count, side * side, _PATCH, _PATCH)
    order = generator.permuted(np.tile(np.arange(side * side), (count, 1)), axis=1)
    patches = np.take_along_axis(patches, order[:, :, None, None], axis=1)
    patches = patches.reshape(count, side, side, _PATCH, _PATCH).transpose(0, 1, 3, 2, 4)
    images: Pixels = np.ascontiguousarray(patches.reshape(pixels.shape))
    return images


def quilted(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """Each quarter from another digit."""
    rows = generator.integers(len(digits), size=(4, count))
    half = digits.pixels.shape[1] // 2
    quilts: Pixels = digits.pixels[rows[0]].copy()
    quilts[:, :half, half:] = digits.pixels[rows[1], :half, half:]
    quilts[:, half:, :half] = digits.pixels[rows[2], half:, :half]
    quilts[:, half:, half:] = digits.pixels[rows[3], half:, half:]
    return quilts


def overlaid(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """Two digits of different classes, one written over the other."""
    first, second = generator.integers(len(digits), size=(2, 2 * count))
    differ = digits.labels[first] != digits.labels[second]
    first, second = first[differ][:count], second[differ][:count]
    images: Pixels = np.maximum(digits.pixels[first], digits.pixels[second])
    return images


def mirrored(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """Mirror images of digits, except of those that stay digits."""
    rows = np.flatnonzero(np.isin(digits.labels, _LOPSIDED))
    return np.ascontiguousarray(digits.pixels[generator.choice(rows, size=count), :, ::-1])


def bold(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """Mirrored digits with strokes two pixels wider."""
    pixels = np.pad(mirrored(digits, count, generator), ((0, 0), (1, 1), (1, 1)))
    size = digits.pixels.shape[1]
    shifts = [pixels[:, y : y + size, x : x + size] for y in range(3) for x in range(3)]
    images: Pixels = np.maximum.reduce(shifts)
    return images


def turned(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """Digits turned by 90 degrees, except those that look like digits then."""
    rows = np.flatnonzero(np.isin(digits.labels, _LOPSIDED))
    pixels = digits.pixels[generator.choice(rows, size=count)]
    parts = ((pixels[: count // 2], 1), (pixels[count // 2 :], -1))
    return np.concatenate([np.rot90(part, turns, axes=(1, 2)) for part, turns in parts])


def enlarged(digits: Images, count: int, generator: np.random.Generator) -> Pixels:
    """The middle of two digits of different classes, one over the other, at twice the size."""
    pixels = overlaid(digits, count, generator)
    margin = pixels.shape[1] // 4
    middle = pixels[:, margin:-margin, margin:-margin]
    images: Pixels = middle.repeat(2, axis=1).repeat(2, axis=2)
    return images


Kind = Callable[[Images, int, np.random.Generator], Pixels]
# Training shows the former; calibration measures with the latter.
SHOWN: tuple[Kind, ...] = (quilted, overlaid, bold, turned, enlarged)
KEPT_BACK: tuple[Kind, ...] = (shuffled, mirrored)

# Mirrored, turned or thicker clothes are still clothes.
_KINDS_OF_DIGITS = (mirrored, bold, turned)


def kinds_for(dataset: Dataset, kinds: Sequence[Kind]) -> list[Kind]:
    """Those of the kinds that do not belong to a data set."""
    return [kind for kind in kinds if dataset == MNIST or kind not in _KINDS_OF_DIGITS]


def make_unfamiliar(digits: Images, count: int, seed: int, kinds: Sequence[Kind]) -> Pixels:
    """`count` images of each of the kinds that do not belong to the set, (kinds x count, H, W)."""
    generator = np.random.default_rng(seed)
    return np.concatenate(
        [kind(digits, count, generator) for kind in kinds_for(digits.dataset, kinds)]
    )
