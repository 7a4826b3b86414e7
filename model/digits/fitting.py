"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

import math
from typing import Any

import cv2
import numpy as np

from model.arrays import Pixels
from model.compiling import compiled
from model.literals import SIDE
from model.pixels import PICTURE, Box, crop, extent, grown, stroke_width

# The longer side of a digit in MNIST's convention. Strokes are widened at MNIST's resolution times
# `_FINE`, to this width in MNIST's pixels: 25 % of MNIST's training images have less.
BOX, _FINE, _THINNEST = 20, 3, 2.0


def fit(ink: Pixels) -> Pixels:
    """Brings a digit's ink alone, shares 0 to 255, (H, W), with a margin, into MNIST's form."""
    cover = _scaled(ink, extent(ink), _FINE * BOX)
    box = extent(cover)
    missing = _THINNEST * _FINE - stroke_width(crop(cover, box), 128)
    if (wider := round(missing / 2)) > 0:
        cover = cv2.dilate(crop(cover, grown(box, 2 * wider)), None, iterations=wider)
        box = extent(cover)
    return _centre(_scaled(crop(cover, box), box, BOX))


@compiled(f"uint8[:, ::1]({PICTURE})")
def _centre(digit: Pixels) -> Pixels:
    """Makes the darkest ink 255, and puts the centre of mass into the middle of (28, 28) pixels."""
    height, width = digit.shape
    darkest: Any = np.uint8(1)
    for y in range(height):
        for x in range(width):
            darkest = max(darkest, digit[y, x])
    scale = np.float32(255 / darkest)
    ink = np.empty((height, width), np.uint8)
    mass = moment_x = moment_y = 0
    for y in range(height):
        for x in range(width):
            ink[y, x] = np.rint(np.float32(digit[y, x]) * scale)
            mass += ink[y, x]
            moment_x += x * ink[y, x]
            moment_y += y * ink[y, x]
    # A centre half way between two pixels goes up and left.
    mass = max(mass, 1)
    left = min(max(math.ceil((SIDE - 1) / 2 - moment_x / mass), 0), SIDE - width)
    top = min(max(math.ceil((SIDE - 1) / 2 - moment_y / mass), 0), SIDE - height)
    image = np.zeros((SIDE, SIDE), np.uint8)
    for y in range(height):
        for x in range(width):
            image[top + y, left + x] = ink[y, x]
    return image


def _scaled(ink: Pixels, box: Box, side: int) -> Pixels:
    """Scales a picture so that its ink, in this box, has this longer side."""
    left, top, right, bottom = box
    scale = side / max(right - left, bottom - top)
    height, width = ink.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    return cv2.resize(ink, size, interpolation=how)


@compiled(f"boolean({PICTURE})")
def follows_convention(image: Pixels) -> bool:
    """Whether an image (H, W) follows MNIST's convention, as all of MNIST's test images do.

    Its ink is 19 or 20 pixels long, and its centre of mass in [13.5, 14.5) on both axes.
    """
    if image.shape != (SIDE, SIDE):
        return False
    across, down = np.zeros(SIDE, np.int64), np.zeros(SIDE, np.int64)
    for y in range(SIDE):
        for x in range(SIDE):
            across[x] += image[y, x]
            down[y] += image[y, x]
    longest = 0
    for sums in (across, down):
        total = moment = first = last = 0
        for place in range(SIDE):
            if sums[place]:
                first, last = first if total else place, place
                total, moment = total + sums[place], moment + place * sums[place]
        if not 27 * total <= 2 * moment < 29 * total:
            return False
        longest = max(longest, last - first + 1)
    return BOX - 1 <= longest <= BOX
