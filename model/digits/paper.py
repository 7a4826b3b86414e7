"""Finds the paper: the innermost sheet, cell or figure that holds marks, light or dark."""

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Bitmap, Pixels
from model.digits.kernels import quantile, sum_of_cubes

Contour = NDArray[np.int32]

# Paper has at least these shares of the picture and of the smallest rectangle around it, an ellipse
# 0.79 of that; and marks with this share of its longer side, or it could be a shadow.
_LEAST_PAPER, _LEAST_RECTANGLE, _LEAST_MARK = 0.04, 0.86, 0.12
# The surroundings of a pixel, as a share of the picture's longer side.
_SURROUNDINGS = 0.25

_TWO = np.ones((2, 2), np.uint8)


def find_sheets(grey: Pixels) -> list[tuple[Pixels, bool]]:
    """Finds polygons of one brightness with marks of another.

    Returns:
        Pictures with what surrounds the paper covered, the smallest paper first, and whether marks
        on it are dark.
    """
    light = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    # Eroded: regions that touch over a corner are two, as on both sides of a thin line.
    wider = cv2.copyMakeBorder(light, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    apart = cv2.erode(wider, _TWO)
    contours, tree = cv2.findContours(
        apart, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE, offset=(-1, -1)
    )
    sheets = []
    for number, contour in enumerate(contours):
        if tree[0, number, 2] < 0:  # nothing is on it
            continue
        area = cv2.contourArea(contour, oriented=True)
        is_light, area = area < 0, abs(area)  # the outlines of holes turn the other way
        if area >= _LEAST_PAPER * grey.size and _is_sheet(contour, area, grey.shape):
            marks = (contours[each] for each in np.flatnonzero(tree[0, :, 3] == number))
            largest = max(max(cv2.boundingRect(mark)[2:]) for mark in marks)
            if largest >= _LEAST_MARK * max(cv2.boundingRect(contour)[2:]):
                sheets.append((area, is_light, _cover_up(grey, light == is_light, contour)))
    sheets.sort(key=lambda sheet: sheet[0])
    return [(sheet, is_light) for _, is_light, sheet in sheets]


def _is_sheet(contour: Contour, area: float, shape: tuple[int, ...]) -> bool:
    """Whether an area is a rectangle, and along two of the picture's edges at most."""
    left, top, width, height = cv2.boundingRect(contour)
    if sum((left < 0, top < 0, left + width > shape[1], top + height > shape[0])) > 2:
        return False
    rectangle = cv2.minAreaRect(contour)[1]
    return area >= _LEAST_RECTANGLE * rectangle[0] * rectangle[1]


def _cover_up(grey: Pixels, region: Bitmap, contour: Contour) -> Pixels:
    """Covers what is around the paper with its own brightness."""
    inside = cv2.drawContours(np.zeros_like(grey), [contour], -1, 1, cv2.FILLED)
    paper = quantile(grey[(inside > 0) & region][None], 0.5)
    inside = cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1)
    return np.where(inside, grey, np.uint8(paper))


def is_ink_dark(grey: Pixels) -> bool:
    """Whether the ink is darker than the paper, where shadows hide the paper's outline.

    Ink is sparse: most pixels differ little from the mean of their surroundings, and few, which are
    ink, differ much. The skewness of the differences has the sign of the ink.
    """
    side = 2 * max(1, round(_SURROUNDINGS * max(grey.shape))) + 1
    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE)
    return sum_of_cubes(grey, mean) <= 0
