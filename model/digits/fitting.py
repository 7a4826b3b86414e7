"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

from functools import cache

import cv2
import numpy as np

from model.arrays import Pixels
from model.literals import SIDE

# The longer side of a digit in MNIST's convention. The width of strokes is adjusted at MNIST's
# resolution times `_FINE`, after soft edges were made steeper, as a pen's on paper are.
BOX, _FINE, _STEEPNESS = 20, 6, 2.5
# Limits of the stroke width, in MNIST's pixels: 25 % of MNIST's training images have less than the
# first, and 4 % have more than the second. Strokes are thinned by at most the third, as a share of
# their width, so that none breaks.
_THINNEST, _THICKEST, _MOST_THINNING = 2.0, 3.6, 0.25

_STEEPER = np.clip((np.arange(256) - 128) * _STEEPNESS + 128, 0, 255).astype(np.uint8)


def fit(ink: Pixels) -> Pixels:
    """Brings the ink of a digit alone into MNIST's convention.

    Args:
        ink: the share of each pixel that strokes cover, 0 to 255, with a margin of paper, (H, W).
    """
    scale = _FINE * BOX / max(extent(ink)[2:])
    size = [max(1, round(side * scale)) for side in ink.shape[::-1]]
    cover = cv2.resize(ink, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    # Strokes much finer than a pixel fade.
    cover = _adjust_width(cv2.LUT(_brightened(cover), _STEEPER))
    left, top, width, height = extent(cover)
    scale = BOX / max(width, height)
    size = [max(1, round(side * scale)) for side in (width, height)]
    digit = cv2.resize(
        cover[top : top + height, left : left + width], size, interpolation=cv2.INTER_AREA
    )
    return _centre(_brightened(digit))  # MNIST's strokes reach full white


def extent(ink: Pixels) -> tuple[int, int, int, int]:
    """Returns left, top, width and height of the ink."""
    left, top, width, height = cv2.boundingRect((ink > ink.max() // 2).view(np.uint8))
    return left, top, width, height


def stroke_width(mask: Pixels) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length.

    The length is the mean of what lines in four directions cross (Cauchy and Crofton).
    """
    left, top, width, height = cv2.boundingRect(mask)
    ink = mask[top : top + height, left : left + width]
    p = cv2.copyMakeBorder(ink, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    pairs = (p[1:], p[:-1]), (p[:, 1:], p[:, :-1]), (p[1:, 1:], p[:-1, :-1]), (p[1:, :-1], p[:-1, 1:])
    down, across, falling, rising = (int(np.count_nonzero(a != b)) for a, b in pairs)
    length = (down + across + (falling + rising) / 2**0.5) * np.pi / 8
    return 2 * cv2.countNonZero(ink) / max(length, 1.0)


def _adjust_width(cover: Pixels) -> Pixels:
    """Brings the strokes of a digit to a width that is common in MNIST."""
    width = stroke_width((cover > 127).view(np.uint8)) / _FINE
    thicker = max(0, round((_THINNEST - width) / 2 * _FINE))
    thinner = max(0, round(min((width - _THICKEST) / 2, _MOST_THINNING * width) * _FINE))
    if thinner:
        return cv2.erode(cover, disc(thinner))
    if thicker:
        cover = cv2.copyMakeBorder(cover, *[thicker] * 4, cv2.BORDER_CONSTANT)
        return cv2.dilate(cover, disc(thicker))
    return cover


@cache
def disc(radius: int) -> Pixels:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * (radius + 0.5)).view(np.uint8)


def _brightened(ink: Pixels) -> Pixels:
    return cv2.convertScaleAbs(ink, alpha=255 / max(int(ink.max()), 1))


def _centre(ink: Pixels) -> Pixels:
    """Places ink of at most 20x20 pixels so that its centre of mass is the middle of 28x28."""
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    places = []
    for axis in (0, 1):
        sums = ink.sum(axis=1 - axis, dtype=np.int64)
        total, moment = int(sums.sum()), int(sums @ np.arange(len(sums)))
        # A centre half way between two pixels goes up and left, as `follows_convention` expects.
        offset = -((2 * moment - (SIDE - 1) * total) // (2 * total))
        offset = min(max(offset, 0), SIDE - len(sums))
        places.append(slice(offset, offset + len(sums)))
    canvas[places[0], places[1]] = ink
    return canvas
