"""A digit in MNIST's convention as strokes: enlarged, made thinner or thicker."""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.arrays import Pixels

Shares = NDArray[np.float64]  # 0 to 1, (H, W)

# Digits are drawn this high and then brought to size.
DRAWN = 160


def enlarge(digit: Pixels) -> Shares:
    """The ink's box, its longer side `DRAWN` pixels, with the crisp edges of a pen."""
    rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
    ink = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A margin of one pixel keeps the outline round.
    ink = np.pad(ink, 1)
    scale = DRAWN / (max(ink.shape) - 2)
    size = (round(ink.shape[1] * scale), round(ink.shape[0] * scale))
    large = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC), dtype=float)
    return crop(np.clip((large - 128) / 40 + 0.5, 0, 1))


def crop(cover: Shares) -> Shares:
    inked = cover > 0.1
    if not inked.any():
        return cover
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return cover[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def thicken(cover: Shares, radius: float) -> Shares:
    """Dilates by a disc; the radius in pixels of `cover`."""
    padded = np.pad(cover, int(np.ceil(radius)) + 2)
    empty = (padded <= 0.5).astype(np.uint8)
    distances = cv2.distanceTransform(empty, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return crop(np.maximum(padded, np.clip(radius + 0.5 - distances, 0, 1)))


def thin(cover: Shares) -> Shares:
    """The strokes' middle lines (Zhang and Suen 1984), one pixel wide."""
    mask = np.pad(cover > 0.5, 1).astype(np.uint8)
    before = 0
    while before != (before := int(mask.sum())):
        for is_removable in _removable():
            around = cv2.filter2D(mask, -1, _NEIGHBOURS, borderType=cv2.BORDER_CONSTANT)
            mask[is_removable[around]] = 0
    return mask.astype(float)


# A bit for each neighbour: north, then clockwise.
_NEIGHBOURS = np.array([[128, 1, 2], [64, 0, 4], [32, 16, 8]], np.float32)


@cache
def _removable() -> list[NDArray[np.bool_]]:
    """Whether a pixel of a stroke goes, by the bits of its neighbours: in one step, in the next."""
    p = [np.arange(256) >> bit & 1 == 1 for bit in range(8)]
    neighbours = np.sum(p, axis=0)
    turns = np.sum([~p[i] & p[(i + 1) % 8] for i in range(8)], axis=0)
    is_edge = (neighbours >= 2) & (neighbours <= 6) & (turns == 1)
    return [
        is_edge & ~(p[0] & p[2] & p[4]) & ~(p[2] & p[4] & p[6]),
        is_edge & ~(p[0] & p[2] & p[6]) & ~(p[0] & p[4] & p[6]),
    ]
