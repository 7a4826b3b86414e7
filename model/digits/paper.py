"""Finds the paper: the innermost sheet, cell or figure that holds marks, light or dark."""

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.digits.loops import find_regions, pick, split

Contour = NDArray[np.int32]

# Paper has at least these shares of the picture, of the area in its outline, and of the smallest
# rectangle around it. An ellipse, as in a 0, has 0.79 of its rectangle.
_LEAST_PAPER, _LEAST_BLANK, _LEAST_RECTANGLE = 0.04, 0.55, 0.86
# It has at most this many corners, found within this share of its outline's length.
_MOST_CORNERS, _TOLERANCE = 7, 0.02
# Without marks of this share of its longer side it could be a shadow, or the inside of a 0: it then
# has this share of the picture, and at most this share of its outline is along the picture's edge.
_LEAST_MARK, _LEAST_EMPTY, _MOST_ALONG_EDGE = 0.12, 0.2, 0.35
# The surroundings of a pixel, as a share of the picture's longer side.
_SURROUNDINGS = 0.2


def find_sheets(grey: Pixels) -> list[tuple[Pixels, bool]]:
    """Finds polygons of one brightness, which may hold marks of another.

    Returns:
        Pictures with what surrounds the paper covered, the smallest paper first, and whether marks
        on it are dark; then the whole picture, with either.
    """
    labels, table = find_regions(grey, split(grey, 0)[0], False)
    sheets, whole = [], None
    least = _LEAST_PAPER * grey.size
    for number, (left, top, right, bottom, area, _, _, is_light) in enumerate(table.tolist()):
        if not number or area < max(least, 0.45 * (right - left) * (bottom - top)):
            continue
        region = pick(labels, np.array([number]))
        if area > _LEAST_BLANK * grey.size and region[[0, 0, -1, -1], [0, -1, 0, -1]].all():
            whole = bool(is_light)
            continue
        contour = _outline(region, area)
        if contour is not None:
            sheets.append((area, bool(is_light), _cover_up(grey, region, contour)))
    if whole is None:
        whole = _is_ink_dark(grey)
    sheets.sort(key=lambda sheet: sheet[0])
    return [(sheet, is_light) for _, is_light, sheet in sheets] + [(grey, whole), (grey, not whole)]


def _outline(region: Pixels, area: int) -> Contour | None:
    """Returns the outline of a region that is a polygon, or None."""
    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    sides = sorted((max(cv2.boundingRect(line)[2:]) for line in contours), reverse=True)
    contour: Contour = max(contours, key=cv2.contourArea)
    filled, length = cv2.contourArea(contour), cv2.arcLength(contour, True)
    rectangle = cv2.minAreaRect(contour)[1]
    edge = sum(map(np.count_nonzero, (region[0], region[-1], region[:, 0], region[:, -1])))
    is_empty = len(sides) < 2 or sides[1] < _LEAST_MARK * sides[0]
    is_paper = (
        area >= _LEAST_BLANK * filled
        and filled >= _LEAST_RECTANGLE * rectangle[0] * rectangle[1]
        and not (
            is_empty and (edge > _MOST_ALONG_EDGE * length or area < _LEAST_EMPTY * region.size)
        )
        and len(cv2.approxPolyDP(contour, _TOLERANCE * length, True)) <= _MOST_CORNERS
    )
    return contour if is_paper else None


def _cover_up(grey: Pixels, region: Pixels, contour: Contour) -> Pixels:
    """Covers what is around the paper with its own brightness."""
    inside = cv2.drawContours(np.zeros_like(grey), [contour], -1, 1, cv2.FILLED)
    inside = cv2.erode(inside, np.ones((5, 5), np.uint8), borderValue=1)
    paper = np.sort(grey[region > 0])
    return np.where(inside, grey, paper[len(paper) // 2])


def _is_ink_dark(grey: Pixels) -> bool:
    """Whether the ink is darker than the paper, where shadows hide the paper's outline.

    Ink is sparse: most pixels differ little from the mean of their surroundings, and few, which are
    ink, differ much. The skewness of the differences has the sign of the ink.
    """
    side = 2 * max(1, round(_SURROUNDINGS * max(grey.shape))) + 1
    mean = cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE)
    difference = grey.astype(np.int64) - mean
    return int((difference**3).sum()) <= 0
