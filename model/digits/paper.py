"""Finds the paper: the innermost sheet, cell or figure that holds marks, light or dark."""

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Bitmap, Pixels

Contour = NDArray[np.int32]

# Paper has at least these shares of the picture and of the smallest rectangle around it. An
# ellipse, as in a 0, has 0.79 of its rectangle.
_LEAST_PAPER, _LEAST_RECTANGLE = 0.04, 0.86
# It has at most this many corners, found within this share of its outline's length.
_MOST_CORNERS, _TOLERANCE = 7, 0.02
# Without marks of this share of its longer side it could be a shadow, or the inside of a 0: it then
# has this share of the picture, and is along one of the picture's edges at most, and else two.
_LEAST_MARK, _LEAST_EMPTY = 0.12, 0.2
# The surroundings of a pixel, as a share of the picture's longer side.
_SURROUNDINGS = 0.2


def find_sheets(grey: Pixels) -> list[tuple[Pixels, bool]]:
    """Finds polygons of one brightness, which may hold marks of another.

    Returns:
        Pictures with what surrounds the paper covered, the smallest paper first, and whether marks
        on it are dark.
    """
    light = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    # Eroded: regions that touch over a corner are two, as on both sides of a thin line.
    wider = cv2.copyMakeBorder(light, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    contours, tree = cv2.findContours(
        cv2.erode(wider, np.ones((2, 2), np.uint8)),
        cv2.RETR_TREE,
        cv2.CHAIN_APPROX_SIMPLE,
        offset=(-1, -1),
    )
    sheets = []
    for number, contour in enumerate(contours):
        area = cv2.contourArea(contour, oriented=True)
        is_light, area = area < 0, abs(area)  # the outlines of holes turn the other way
        if area < _LEAST_PAPER * grey.size:
            continue
        marks = [contours[each] for each in np.flatnonzero(tree[0, :, 3] == number)]
        if _is_paper(contour, area, marks, grey.shape):
            sheets.append((area, is_light, _cover_up(grey, light == is_light, contour)))
    sheets.sort(key=lambda sheet: sheet[0])
    return [(sheet, is_light) for _, is_light, sheet in sheets]


def _is_paper(contour: Contour, area: float, marks: list[Contour], shape: tuple[int, ...]) -> bool:
    left, top, width, height = cv2.boundingRect(contour)
    rectangle = cv2.minAreaRect(contour)[1]
    if area < _LEAST_RECTANGLE * rectangle[0] * rectangle[1]:
        return False
    largest = max((max(cv2.boundingRect(mark)[2:]) for mark in marks), default=0)
    is_empty = largest < _LEAST_MARK * max(width, height)
    edges = left < 0, top < 0, left + width > shape[1], top + height > shape[0]
    if sum(edges) > 2 - is_empty or (is_empty and area < _LEAST_EMPTY * shape[0] * shape[1]):
        return False
    tolerance = _TOLERANCE * cv2.arcLength(contour, True)
    return len(cv2.approxPolyDP(contour, tolerance, True)) <= _MOST_CORNERS


def _cover_up(grey: Pixels, region: Bitmap, contour: Contour) -> Pixels:
    """Covers what is around the paper with its own brightness."""
    inside = cv2.drawContours(np.zeros_like(grey), [contour], -1, 1, cv2.FILLED)
    paper = np.sort(grey[(inside > 0) & region])
    inside = cv2.erode(inside, np.ones((3, 3), np.uint8), borderValue=1)
    return np.where(inside, grey, paper[len(paper) // 2])


def is_ink_dark(grey: Pixels) -> bool:
    """Whether the ink is darker than the paper, where shadows hide the paper's outline.

    Ink is sparse: most pixels differ little from the mean of their surroundings, and few, which are
    ink, differ much. The skewness of the differences has the sign of the ink.
    """
    side = 2 * max(1, round(_SURROUNDINGS * max(grey.shape))) + 1
    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE)
    difference = cv2.subtract(grey, mean, dtype=cv2.CV_64F)
    # Of whole numbers, exactly; and not a product of vectors, for which NumPy takes more threads.
    return bool((difference * difference * difference).sum() <= 0)
