"""Finds the paper: the innermost sheet, cell or figure that holds marks."""

from typing import NamedTuple

import cv2
import numpy as np

from model.arrays import Pixels

# Paper has at least this share of the picture,
_LEAST_PAPER = 0.04
# at most this many corners, found within this share of its outline's length,
_MOST_CORNERS, _TOLERANCE = 7, 0.02
# at least this share of its convex hull, without what is written on it.
_LEAST_SOLID = 0.93
_LEAST_BLANK = 0.55
# The marks on it have at least this share of its longer side.
_LEAST_MARK = 0.12
# Without marks it could be a shadow, which is along the picture's edge for more than this share.
_MOST_ALONG_EDGE = 0.35


class Paper(NamedTuple):
    """Where the paper is.

    Attributes:
        is_light: whether it is lighter than the marks on it.
        inside: 255 on the paper and on its marks, 0 elsewhere, (H, W); None if it is all paper.
        brightness: its median.
    """

    is_light: bool
    inside: Pixels | None
    brightness: int


def find_paper(grey: Pixels) -> list[Paper]:
    """Finds polygons of one brightness, which may hold marks of another; the smallest first."""
    light = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1]
    papers = []
    for is_light, bitmap in ((True, light), (False, 1 - light)):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(bitmap, connectivity=4)
        for number, (_, _, width, height, area) in enumerate(stats.tolist()):
            if not number or area < max(_LEAST_PAPER * grey.size, 0.45 * width * height):
                continue
            region = labels == number
            if area > _LEAST_BLANK * grey.size and region[::grey.shape[0] - 1 or 1, :: grey.shape[1] - 1 or 1].all():
                papers.append((area, Paper(is_light, None, 0)))
                continue
            contour = outline(region.view(np.uint8), area, grey.size)
            if contour is not None and _is_sharp(grey, light, contour):
                brightness = int(np.sort(grey[region])[area // 2])
                inside = np.zeros_like(grey)
                cv2.drawContours(inside, [contour], -1, 255, cv2.FILLED)
                inside = cv2.erode(inside, np.ones((5, 5), np.uint8), borderValue=255)
                papers.append((area, Paper(is_light, None if inside.all() else inside, brightness)))
    return [paper for _, paper in sorted(papers, key=lambda item: item[0])]


def outline(region: Pixels, area: int, size: int) -> np.ndarray | None:
    """Returns the outline of a region that is a polygon, or None."""
    contours, _ = cv2.findContours(region, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    sides = [max(cv2.boundingRect(contour)[2:]) for contour in contours]
    order = sorted(range(len(contours)), key=lambda i: -sides[i])
    contour = contours[order[0]]
    filled, length = cv2.contourArea(contour), cv2.arcLength(contour, True)
    if area < _LEAST_BLANK * filled:
        return None
    if filled < _LEAST_SOLID * cv2.contourArea(cv2.convexHull(contour)):
        return None
    (_, _), (height, width), _ = cv2.minAreaRect(contour)
    if filled < 0.86 * height * width:
        return None
    if len(order) < 2 or sides[order[1]] < _LEAST_MARK * sides[order[0]]:
        edge = sum(int(np.count_nonzero(line)) for line in (region[0], region[-1], region[:, 0], region[:, -1]))
        if edge > _MOST_ALONG_EDGE * length or area < 0.2 * size:
            return None
    corners = cv2.approxPolyDP(contour, _TOLERANCE * length, True)
    return contour if len(corners) <= _MOST_CORNERS else None


def _is_sharp(grey: Pixels, light: Pixels, contour: np.ndarray) -> bool:
    """Whether brightness changes at once along an outline, as far as between light and dark."""
    least = 0.5 * (cv2.mean(grey, light)[0] - cv2.mean(grey, 1 - light)[0])
    square = np.ones((5, 5), np.uint8)
    steps = cv2.subtract(cv2.dilate(grey, square), cv2.erode(grey, square))
    x, y = contour[:, 0].T
    return np.count_nonzero(steps[y, x] >= least) >= 0.5 * len(x)
