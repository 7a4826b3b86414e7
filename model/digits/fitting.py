"""Fits the ink of a digit into 28x28 pixels, with strokes as wide as MNIST's."""

from functools import cache

import cv2
import numpy as np

from model.arrays import Pixels
from model.literals import SIDE

# The longer side of a digit in MNIST's convention. The width of strokes is adjusted at MNIST's
# resolution times `_FINE`, after soft edges were made steeper, as a pen's on paper are.
BOX, _FINE, _STEEPNESS = 20, 3, 2.5
# Limits of the stroke width, in MNIST's pixels: 25 % of MNIST's training images have less than the
# first, and 4 % have more than the second. Strokes are thinned by at most the third, as a share of
# their width, so that none breaks.
_THINNEST, _THICKEST, _MOST_THINNING = 2.0, 3.6, 0.25
# Lines of an outline are at most this thick and twice this apart, as shares of the longer side, and
# filled they have at least this many times the ink. The loops of a thin digit have less.
_THIN, _GAP, _FILLED = 0.095, 0.1, 1.6


def fit(ink: Pixels) -> Pixels:
    """Brings the ink of a digit alone, with a margin of paper, into MNIST's convention.

    Args:
        ink: the share of each pixel that strokes cover, 0 to 255, (H, W).
    """
    cover = _adjust_width(_stretch(_scaled(ink, _FINE * BOX), _STEEPNESS))
    left, top, width, height = _extent(cover)
    return _centre(_stretch(_scaled(cover[top : top + height, left : left + width], BOX), 1))


def _extent(ink: Pixels) -> tuple[int, int, int, int]:
    """The box of what is more than half as dark as the darkest: left, top, width, height."""
    dark = cv2.threshold(ink, int(ink.max()) // 2, 1, cv2.THRESH_BINARY)[1]
    left, top, width, height = cv2.boundingRect(dark)
    return left, top, width, height


def _scaled(ink: Pixels, side: int) -> Pixels:
    """Scales a picture so that its ink has this longer side."""
    scale = side / max(_extent(ink)[2:])
    height, width = (max(1, round(length * scale)) for length in ink.shape)
    how = cv2.INTER_AREA if scale < 0.5 else cv2.INTER_LINEAR
    scaled: Pixels = cv2.resize(ink, (width, height), interpolation=how)
    return scaled


def _stretch(ink: Pixels, steepness: float) -> Pixels:
    """Brings the darkest ink to 255, and makes the edges steeper in the middle of their slope."""
    most = max(int(ink.max()), 1)
    faint = round(most * (0.5 - 0.5 / steepness))
    stretched: Pixels = cv2.convertScaleAbs(cv2.subtract(ink, faint), alpha=steepness * 255 / most)
    return stretched


def _adjust_width(cover: Pixels) -> Pixels:
    """Brings the strokes of a digit to a width that is common in MNIST."""
    width = stroke_width(cover, 127) / _FINE
    if width > _THICKEST:
        change = min((width - _THICKEST) / 2, _MOST_THINNING * width)
        return cv2.erode(cover, disc(round(change * _FINE)))
    change = max(0, round((_THINNEST - width) / 2 * _FINE))
    return cv2.dilate(cv2.copyMakeBorder(cover, *[change] * 4, 0), disc(change))


def fill_outline(darkness: Pixels, threshold: int) -> Pixels:
    """Fills a digit that is drawn as its outline: thin lines near each other, one around all."""
    ink = cv2.threshold(darkness, threshold, 255, cv2.THRESH_BINARY)[1]
    side, whole = max(cv2.boundingRect(ink)[2:]), max(ink.shape)
    outer = cv2.findContours(ink, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if (
        not whole / 2 <= side <= 0.8 * whole
        or len(outer) > 1
        or stroke_width(ink, 0) > _THIN * side
    ):
        return darkness
    gap = round(_GAP * side)
    wider = cv2.copyMakeBorder(ink, *[2 * gap] * 4, cv2.BORDER_CONSTANT)
    filled = cv2.morphologyEx(wider, cv2.MORPH_CLOSE, disc(gap))[
        2 * gap : -2 * gap, 2 * gap : -2 * gap
    ]
    is_hollow = cv2.countNonZero(filled) >= _FILLED * cv2.countNonZero(ink)
    return cv2.max(darkness, filled) if is_hollow else darkness


def stroke_width(values: Pixels, threshold: int) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length."""
    ink = cv2.threshold(values, threshold, 1, cv2.THRESH_BINARY)[1]
    outlines = cv2.findContours(ink, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
    length = sum(cv2.arcLength(outline, True) for outline in outlines)
    return float(2 * cv2.countNonZero(ink) / max(length, 1.0))


@cache
def disc(radius: int) -> Pixels:
    """Returns a disc of ones, as a neighbourhood."""
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * (radius + 0.5)).view(np.uint8)


def _centre(digit: Pixels) -> Pixels:
    """Puts a digit into a square, its centre of mass in the middle."""
    image, moments = np.zeros((SIDE, SIDE), np.uint8), cv2.moments(digit)
    corner = []
    for name, length in zip(("m01", "m10"), digit.shape, strict=True):
        # A centre half way between two pixels goes up and left, as `follows_convention` expects.
        place = -((2 * moments[name] - (SIDE - 1) * moments["m00"]) // (2 * moments["m00"]))
        corner.append(min(max(int(place), 0), SIDE - length))
    image[corner[0] :, corner[1] :][: digit.shape[0], : digit.shape[1]] = digit
    return image
