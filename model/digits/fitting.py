"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

from functools import cache

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits.loops import average, centre, extent, stretch, stroke_width
from model.literals import SIDE

# The longer side of a digit in MNIST's convention. The width of strokes is adjusted at MNIST's
# resolution times `_FINE`, after soft edges were made steeper, as a pen's on paper are.
BOX, _FINE, _STEEPNESS = 20, 6, 2.5
# Limits of the stroke width, in MNIST's pixels: 25 % of MNIST's training images have less than the
# first, and 4 % have more than the second. Strokes are thinned by at most the third, as a share of
# their width, so that none breaks.
_THINNEST, _THICKEST, _MOST_THINNING = 2.0, 3.6, 0.25


def fit(ink: Pixels) -> Pixels:
    """Brings the ink of a digit alone, with a margin of paper, into MNIST's convention.

    Args:
        ink: the share of each pixel that strokes cover, 0 to 255, (H, W).
    """
    cover = _adjust_width(stretch(_scaled(ink, _FINE * BOX), _STEEPNESS))
    _, left, top, right, bottom = extent(cover)
    digit = stretch(_scaled(cover[top:bottom, left:right].copy(), BOX), 1)
    return centre(digit, SIDE)


def _scaled(ink: Pixels, side: int) -> Pixels:
    """Scales a picture so that its ink has this longer side."""
    _, left, top, right, bottom = extent(ink)
    scale = side / max(right - left, bottom - top)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    if scale < 1:
        return average(ink, height, width)
    larger: Pixels = cv2.resize(ink, (width, height), interpolation=cv2.INTER_LINEAR)
    return larger


def _adjust_width(cover: Pixels) -> Pixels:
    """Brings the strokes of a digit to a width that is common in MNIST."""
    width = stroke_width(cover, 127) / _FINE
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
