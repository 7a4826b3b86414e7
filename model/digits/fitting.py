"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

import math

import cv2
import numpy as np

from model.arrays import Pixels
from model.compiling import compiled
from model.literals import SIDE

# The longer side of a digit in MNIST's convention. Strokes are widened at MNIST's resolution times
# `_FINE`, to this width in MNIST's pixels: 25 % of MNIST's training images have less.
BOX, _FINE, _THINNEST = 20, 3, 2.0


def fit(ink: Pixels) -> Pixels:
    """Brings a digit's ink alone, shares 0 to 255, (H, W), with a margin, into MNIST's form."""
    cover = _scaled(ink, _FINE * BOX, *_extent(ink)[2:])
    missing = _THINNEST * _FINE - stroke_width(cv2.threshold(cover, 127, 255, cv2.THRESH_BINARY)[1])
    cover = cv2.dilate(cover, None, iterations=max(0, round(missing / 2)))
    left, top, width, height = _extent(cover)
    digit = _scaled(cover[top : top + height, left : left + width], BOX, width, height)
    digit = cv2.convertScaleAbs(digit, alpha=255 / max(cv2.minMaxLoc(digit)[1], 1))
    moments = cv2.moments(digit)
    # The centre of mass goes to the middle; half way between two pixels, up and left.
    x, y = (math.ceil((SIDE - 1) / 2 - moments[axis] / moments["m00"]) for axis in ("m10", "m01"))
    height, width = digit.shape
    left, top = min(max(x, 0), SIDE - width), min(max(y, 0), SIDE - height)
    margins = top, SIDE - height - top, left, SIDE - width - left
    return cv2.copyMakeBorder(digit, *margins, cv2.BORDER_CONSTANT)


def _extent(ink: Pixels) -> tuple[int, int, int, int]:
    """The box of what is more than half as dark as the darkest: left, top, width, height."""
    dark = cv2.threshold(ink, int(cv2.minMaxLoc(ink)[1]) // 2, 1, cv2.THRESH_BINARY)[1]
    return cv2.boundingRect(dark)


def _scaled(ink: Pixels, side: int, *extent: int) -> Pixels:
    """Scales a picture so that its ink, of this extent, has this longer side."""
    scale = side / max(extent)
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    how = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return cv2.resize(ink, (width, height), interpolation=how)


def stroke_width(ink: Pixels) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length."""
    outlines = cv2.findContours(ink, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    length = sum(cv2.arcLength(outline, True) for outline in outlines)
    return float(2 * cv2.countNonZero(ink) / max(length, 1.0))


@compiled("boolean(Array(uint8, 2, 'A', readonly=True))")
def follows_convention(image: Pixels) -> bool:
    """Whether an image (H, W) follows MNIST's convention, as all of MNIST's test images do.

    Its ink is 19 or 20 pixels long, and its centre of mass in [13.5, 14.5) on both axes.
    """
    if image.shape != (SIDE, SIDE):
        return False
    longest = 0
    for sums in (image.sum(axis=0), image.sum(axis=1)):
        total, moment = sums.sum(), (sums * np.arange(SIDE)).sum()
        if not 27 * total <= 2 * moment < 29 * total:
            return False
        inked = np.flatnonzero(sums)
        longest = max(longest, inked[-1] - inked[0] + 1)
    return BOX - 1 <= longest <= BOX
