"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

import cv2
import numpy as np

from model.arrays import Bitmap, Pixels
from model.compiling import compiled
from model.literals import SIDE

# The longer side of a digit in MNIST's convention.
BOX = 20
# The width of strokes is adjusted at MNIST's resolution times this factor.
FINE = 6
# Limits of the stroke width, in MNIST's pixels: 25 % of MNIST's training images have less than the
# first, and 4 % have more than the second.
_THINNEST, _THICKEST = 2.0, 3.6
# Strokes are thinned by at most this share of their width, so that no stroke breaks.
_MOST_THINNING = 0.25
# The least width of a stroke that is cut out, pixels.
_FINEST = 1.5
# Soft edges are made steeper by this factor, as a pen's on paper are.
_STEEPNESS = 2.5


def fit(ink: Pixels) -> Pixels:
    """Brings the ink of a digit alone into MNIST's convention.

    Args:
        ink: the share of each pixel that strokes cover, 0 to 255, with a margin of paper, (H, W).
    """
    top, bottom, left, right = extent(ink)
    longer = max(bottom - top, right - left)
    scale = FINE * BOX / longer
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    large = cv2.resize(ink, (width, height), interpolation=way)
    # Strokes much finer than a pixel fade.
    large = cv2.convertScaleAbs(large, alpha=255 / int(large.max()))
    table = np.clip((np.arange(256) - 128) * _STEEPNESS + 128, 0, 255).astype(np.uint8)
    cover = cv2.LUT(large, table)
    return place(adjust_width(cover))


def adjust_width(cover: Pixels) -> Pixels:
    """Brings the strokes of a digit to a width that is common in MNIST."""
    width = stroke_width(cover) / FINE
    if width < _THINNEST:
        change = round((_THINNEST - width) / 2 * FINE)
        cover = cv2.copyMakeBorder(cover, *[change] * 4, cv2.BORDER_CONSTANT, value=0)
        return cv2.dilate(cover, disc(change))
    if width > _THICKEST:
        change = round(min((width - _THICKEST) / 2, _MOST_THINNING * width) * FINE)
        return cv2.erode(cover, disc(change))
    return cover


def disc(radius: int) -> Pixels:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * (radius + 0.5)).astype(np.uint8)


@compiled("float64(uint8[:, ::1])")
def stroke_width(cover: Pixels) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length.

    The length is the mean of those that lines in four directions cross (Cauchy and Crofton).
    """
    height, width = cover.shape
    area = straight = oblique = 0
    for y in range(height + 1):
        for x in range(width + 1):
            here = int(cover[y, x]) if y < height and x < width else 0
            above = int(cover[y - 1, x]) if y and x < width else 0
            before = int(cover[y, x - 1]) if x and y < height else 0
            corner = int(cover[y - 1, x - 1]) if x and y else 0
            area += here
            straight += abs(here - above) + abs(here - before)
            oblique += abs(here - corner) + abs(above - before)
    length = (straight + oblique / np.sqrt(2.0)) * (np.pi / 8)
    return 2 * area / max(length, 1e-6)


@compiled("UniTuple(int64, 4)(uint8[:, ::1])")
def extent(cover: Pixels) -> tuple[int, int, int, int]:
    """Returns top, bottom, left and right of the ink, bottom and right exclusive."""
    height, width = cover.shape
    half = cover.max() // 2
    top, bottom, left, right = height, 0, width, 0
    for y in range(height):
        for x in range(width):
            if cover[y, x] > half:
                top, bottom = min(top, y), y + 1
                left, right = min(left, x), max(right, x + 1)
    return top, bottom, left, right


@compiled("uint8[:, ::1](uint8[:, ::1])")
def place(cover: Pixels) -> Pixels:
    """Averages the ink's box to a longer side of 20 pixels, its centre of mass in the middle."""
    top, bottom, left, right = extent(cover)
    longer = max(bottom - top, right - left)
    height = max(1, (2 * BOX * (bottom - top) + longer) // (2 * longer))
    width = max(1, (2 * BOX * (right - left) + longer) // (2 * longer))
    sums = np.zeros((height, width), np.int64)
    for y in range(bottom - top):
        for x in range(right - left):
            value = cover[top + y, left + x]
            if value == 0:
                continue
            # In units in which a pixel of the cover has the sides `height` and `width`.
            row, column = y * height // (bottom - top), x * width // (right - left)
            above = min(height, (row + 1) * (bottom - top) - y * height)
            before = min(width, (column + 1) * (right - left) - x * width)
            sums[row, column] += value * above * before
            if before < width:
                sums[row, column + 1] += value * above * (width - before)
            if above < height:
                sums[row + 1, column] += value * (height - above) * before
                if before < width:
                    sums[row + 1, column + 1] += value * (height - above) * (width - before)
    most = sums.max()
    total = moment_y = moment_x = 0
    for y in range(height):
        for x in range(width):
            # MNIST's strokes reach full white.
            sums[y, x] = (2 * 255 * sums[y, x] + most) // (2 * most)
            total += sums[y, x]
            moment_y += sums[y, x] * y
            moment_x += sums[y, x] * x
    # A centre half way between two pixels goes up and left, as `follows_convention` expects.
    row = min(max(_offset(moment_y, total), 0), SIDE - height)
    column = min(max(_offset(moment_x, total), 0), SIDE - width)
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    for y in range(height):
        for x in range(width):
            canvas[row + y, column + x] = sums[y, x]
    return canvas


@compiled()
def _offset(moment: int, total: int) -> int:
    """Returns ceil(SIDE / 2 - moment / total - 1 / 2)."""
    return -((2 * moment - (SIDE - 1) * total) // (2 * total))
