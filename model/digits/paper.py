"""Paper as 8-bit pixels: its scale, its noise, where it is, and how dark ink is on it.

All that OpenCV does here is exact, so that its bits do not depend on a CPU's instructions.
"""

import math
from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np

from model.arrays import Pixels
from model.pixels import count_ends, even_paper, quantile

cv2.setNumThreads(1)
# A sheet has at least these shares of the picture and of the smallest rectangle around it (ellipses
# have 0.79), and marks with this share of its longer side; and is along at most two of the edges.
_LEAST_PAPER, _LEAST_RECTANGLE, _LEAST_MARK = 0.04, 0.86, 0.12
# Paper that is even has at least these shares of the picture and of its edges.
_MOST_PAPER, _EDGES = 0.7, 0.9
SPECKED = 50  # In smaller pictures, pixels, a single one can be the hole of a loop.
_NOISE_REACH = 4  # The least contrast of ink, in standard deviations of the noise.
# A line is visible in at least this share of the picture, in a picture of at least this side.
_LEAST_LINE, _LEAST_SIDE = 0.75, 60
# The steepest line on a sheet that is held by hand, as a tangent: 5 degrees. Steps of 0.4 degrees.
_STEEPEST, _STEP = 0.09, 0.0075
# A line's greatest thickness, in longer sides, least darkness, and greatest share of the darkest.
_THICKEST, _FAINTEST, _LINE = 0.03, 6, 0.75
_AROUND = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
_BEND = np.array([1, -2, 1], np.float32)


def reduce(image: Pixels, longest: int) -> tuple[Pixels, int]:
    """Averages squares of pixels until the longer side is at most `longest`, and says how large."""
    factor = -(-max(image.shape) // longest)
    if factor == 1:
        return image, 1
    height, width = image.shape
    height, width = height - height % factor or height, width - width % factor or width
    size = max(1, width // factor), max(1, height // factor)
    return cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA), factor


def find_sheets(grey: Pixels) -> Iterator[tuple[Pixels, bool]]:
    """Finds polygons of one brightness with marks of another, the smallest first.

    Yields pictures with what surrounds the paper in its brightness, and whether marks are dark.
    """
    light = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    # Eroded: regions that touch over a corner are two, as on both sides of a thin line.
    wider = cv2.copyMakeBorder(light, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    apart = cv2.erode(wider, np.ones((2, 2), np.uint8))
    how = cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE
    contours, tree = cv2.findContours(apart, *how, offset=(-1, -1))
    areas = list(map(cv2.contourArea, contours))
    for number in np.argsort(areas).tolist():
        contour = contours[number]
        # Nothing is on it, or it is small.
        if tree[0, number, 2] < 0 or areas[number] < _LEAST_PAPER * grey.size:
            continue
        left, top, width, height = cv2.boundingRect(contour)
        edges = left < 0, top < 0, left + width > grey.shape[1], top + height > grey.shape[0]
        is_paper = areas[number] >= _LEAST_RECTANGLE * math.prod(cv2.minAreaRect(contour)[1])
        marks = [contours[each] for each in np.flatnonzero(tree[0, :, 3] == number)]
        largest = max(max(cv2.boundingRect(mark)[2:]) for mark in marks)
        if is_paper and sum(edges) <= 2 and largest >= _LEAST_MARK * max(width, height):
            is_light = cv2.contourArea(contour, oriented=True) < 0  # holes turn the other way
            inside = cv2.drawContours(np.zeros_like(grey), [contour], -1, 1, cv2.FILLED)
            paper = quantile(grey[(inside > 0) & (light == is_light)][None], 0.5)
            inside = cv2.erode(inside, None, borderValue=1)
            yield np.where(inside, grey, np.uint8(paper)), is_light


def is_ink_dark(grey: Pixels) -> bool:
    """Whether ink, the few pixels that differ much from those around, is dark: by the skewness."""
    side = 2 * max(1, round(max(grey.shape) / 4)) + 1
    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE)
    difference = cv2.subtract(grey, mean, dtype=cv2.CV_32F)
    return cv2.sumElems(difference * difference * difference)[0] <= 0


def find_even(grey: Pixels) -> tuple[int, bool] | None:
    """The brightness of even paper, as of a drawing, and whether ink is darker; None: it is not."""
    paper, is_dark = even_paper(grey, _MOST_PAPER, _EDGES)
    return None if paper < 0 else (paper, is_dark)


def clean(grey: Pixels) -> tuple[Pixels, float]:
    """Leaves no pixel darker or lighter than all around it, and estimates the noise's deviation.

    It is the median of what 3x3 pixels have besides a plane; Immerkaer 1996, "Fast Noise Variance
    Estimation".
    """
    if max(grey.shape) >= SPECKED:
        lightest, darkest = cv2.dilate(grey, _AROUND), cv2.erode(grey, _AROUND)
        grey = cv2.max(cv2.min(grey, lightest), darkest)
    left = cv2.convertScaleAbs(cv2.sepFilter2D(grey, cv2.CV_16S, _BEND, _BEND))
    # 6 is the filter's norm. Half of a normal distribution is within 0.6745 standard deviations.
    return grey, quantile(left, 0.5) / (6 * 0.6745)


def measure_darkness(
    grey: Pixels, least: float, noise: float, reach: int, even: int | None = None
) -> Pixels:
    """Measures how dark each pixel is against the paper around it: 0, or up to 255 for black.

    Darkness is a ratio of brightnesses, the same in light and in shadow. That of the paper under
    the ink is a morphological closing's, which keeps the edges of shadows, unlike a mean.

    Args:
        grey: brightness of dark ink on light paper, (H, W).
        least: the least contrast of ink, grey levels.
        noise: standard deviation of the noise, grey levels.
        reach: strokes of up to twice this width are ink, at the edge up to this; wider ones shadow.
        even: the brightness of paper that is even; `noise` and `reach` are not used then.
    """
    if even is not None:
        return cv2.LUT(grey, _darkness_on_even(even, least))
    square = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, square)
    contrast = cv2.subtract(paper, grey)
    # Noise lifts the paper: a fifth of all pixels is as light as the paper or lighter.
    if lift := quantile(contrast, 0.2):
        contrast = cv2.subtract(contrast, lift)
    return _share(contrast, paper, max(least, _NOISE_REACH * noise))


@cache
def _darkness_on_even(even: int, least: float) -> Pixels:
    """The darkness of each brightness, (256, 1)."""
    paper = np.full(256, even, np.uint8)
    return _share(cv2.subtract(paper, np.arange(256, dtype=np.uint8)), paper, least)


def _share(contrast: Pixels, paper: Pixels, least: float) -> Pixels:
    """Contrasts as 255ths of the paper's brightness, 0 where less than the least."""
    marks = cv2.threshold(contrast, least - 0.5, 0, cv2.THRESH_TOZERO)[1]
    return cv2.divide(marks, paper, scale=255)


def remove_lines(darkness: Pixels) -> Pixels:
    """Erases lines from edge to edge, except where ink crosses them."""
    if min(darkness.shape) < _LEAST_SIDE or count_ends(darkness) < 2:
        return darkness
    return cv2.transpose(_erase_lines(cv2.transpose(_erase_lines(darkness))))


def _erase_lines(darkness: Pixels) -> Pixels:
    """Erases the roughly horizontal of the thin lines, where it is not as dark above and below."""
    height, width = darkness.shape
    post = np.ones((max(5, round(_THICKEST * max(height, width)) + 1), 1), np.uint8)
    opened = cv2.morphologyEx(darkness, cv2.MORPH_OPEN, post, borderType=cv2.BORDER_REPLICATE)
    thin = cv2.threshold(cv2.subtract(darkness, opened), _FAINTEST, 255, cv2.THRESH_BINARY)[1]
    angles = {"min_theta": np.pi / 2 - _STEEPEST, "max_theta": np.pi / 2 + _STEEPEST}
    lines = cv2.HoughLines(thin, 1, _STEP, round(_LEAST_LINE * width), **angles)
    if lines is None:
        return darkness
    where = np.zeros_like(darkness)
    for distance, angle in lines[:, 0].tolist():
        rows = [round((distance - x * np.cos(angle)) / np.sin(angle)) for x in (0, width - 1)]
        cv2.line(where, (0, rows[0]), (width - 1, rows[1]), 1, len(post) - 1)
    is_line = (where > 0) & (darkness <= _LINE * cv2.minMaxLoc(darkness)[1])
    return np.where(is_line, opened, darkness)
