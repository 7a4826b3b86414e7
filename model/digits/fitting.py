"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

from functools import cache

import cv2
import numpy as np

from model.arrays import Integers, Pixels
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
    """Brings the ink of a digit alone, with a margin of paper, into MNIST's convention.

    Args:
        ink: the share of each pixel that strokes cover, 0 to 255, (H, W).
    """
    cover = _adjust_width(cv2.LUT(_scaled(ink, _FINE * BOX), _STEEPER))
    left, top, width, height = _extent(cover)
    digit = _scaled(cover[top : top + height, left : left + width], BOX)
    rows, columns = _centred(digit.sum(axis=1)), _centred(digit.sum(axis=0))
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    canvas[rows, columns] = digit
    return canvas


def _scaled(ink: Pixels, side: int) -> Pixels:
    """Scales a picture so that its ink has this longer side, and reaches full white."""
    scale = side / max(_extent(ink)[2:])
    size = [max(1, round(length * scale)) for length in ink.shape[::-1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(ink, size, interpolation=way)
    return cv2.convertScaleAbs(scaled, alpha=255 / int(scaled.max()))


def _extent(ink: Pixels) -> tuple[int, int, int, int]:
    """Returns left, top, width and height of the ink."""
    left, top, width, height = cv2.boundingRect((ink > ink.max() // 2).view(np.uint8))
    return left, top, width, height


def _centred(sums: Integers) -> slice:
    """Returns where a centre of mass is in the middle, from the ink of each row or column."""
    total, moment = int(sums.sum()), int(sums @ np.arange(len(sums)))
    # A centre half way between two pixels goes up and left, as `follows_convention` expects.
    offset = -((2 * moment - (SIDE - 1) * total) // (2 * total))
    offset = min(max(offset, 0), SIDE - len(sums))
    return slice(offset, offset + len(sums))


def stroke_width(mask: Pixels) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length.

    The length is the mean of what lines in four directions cross (Cauchy and Crofton).
    """
    left, top, width, height = cv2.boundingRect(mask)
    p = cv2.copyMakeBorder(mask[top : top + height, left : left + width], 1, 1, 1, 1, 0)
    straight = np.count_nonzero(p[1:] != p[:-1]) + np.count_nonzero(p[:, 1:] != p[:, :-1])
    oblique = np.count_nonzero(p[1:, 1:] != p[:-1, :-1])
    oblique += np.count_nonzero(p[1:, :-1] != p[:-1, 1:])
    return 2 * cv2.countNonZero(p) / max((straight + oblique / 2**0.5) * np.pi / 8, 1.0)


def _adjust_width(cover: Pixels) -> Pixels:
    """Brings the strokes of a digit to a width that is common in MNIST."""
    width = stroke_width((cover > 127).view(np.uint8)) / _FINE
    if width > _THICKEST:
        change = min((width - _THICKEST) / 2, _MOST_THINNING * width)
        return cv2.erode(cover, disc(round(change * _FINE)))
    change = max(0, round((_THINNEST - width) / 2 * _FINE))
    return cv2.dilate(cv2.copyMakeBorder(cover, *[change] * 4, 0), disc(change))


@cache
def disc(radius: int) -> Pixels:
    """Returns a disc of ones, as a neighbourhood."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * (radius + 0.5)).view(np.uint8)
