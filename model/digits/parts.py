"""Connected parts of the ink, and which of them belong to one digit."""

from typing import NamedTuple

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits.loops import Labels, find_regions, pick

# As shares of the main part:
_LEAST_PART = 0.015  # parts with a smaller area are dust
_NEAR = 0.3  # the largest gap between parts of a digit, as a share of its longer side
# Further digits have, compared with the main digit, at least these shares of its longer side, of
# its ink and of its mean darkness, and at most this share of their outline along the edge.
_LEAST_DIGIT, _LEAST_MASS, _LEAST_DARKNESS, _MOST_ALONG_EDGE = 0.5, 0.15, 0.6, 0.05
# A part with more than this share of its outline along the picture's edge is a shadow.
ALONG_EDGE = 0.25
# Handwriting has at most this number of parts; noise, textures and print have more.
# Digits have at least this share of all ink.
_MOST_PARTS, _LEAST_SHARE = 60, 0.4

# Two parts are separate digits, and not pieces of one, if they stand side by side at every height:
_LEAST_HEIGHT = 0.6  # the lower one has at least this share of the taller one's height,
_LEAST_COMMON_HEIGHT = 0.6  # they share at least this share of the lower one's height,
_MOST_COMMON_WIDTH = 0.4  # and at most this share of the narrower one's width, and the gap is more
_LEAST_GAP = 0.08  # than this share of the taller one's height; in print it is 0.1, in a 4 less.

# A line under or over a digit is this much wider than high, and over it off its middle by at most
# this share of its width. Of the 158 detached bars of fives in MNIST's training set 97 % are more.
_FLAT, _OFF_MIDDLE = 2.0, 0.17
# A frame holds a part with at least this share of its longer side. Its remains are along their box.
_LEAST_HELD = 0.2

Box = tuple[int, int, int, int]


class Parts(NamedTuple):
    """The 8-connected parts of the ink, numbered from 1; 0 is the paper.

    Attributes:
        labels: the number of each pixel's part, (H, W).
        boxes: left, top, right and bottom of each part, the last two exclusive.
        areas: number of pixels of each part; 0 of all.
        masses: sum of the darkness of each part; 0 of all.
        along_edge: the share of each part's outline that is along the picture's edge.
    """

    labels: Labels
    boxes: list[Box]
    areas: list[int]
    masses: list[int]
    along_edge: list[float]


class Group(NamedTuple):
    """The parts that make up a digit; `box` as in `Parts`, sums of `area` and `mass`."""

    members: list[int]
    box: Box
    mass: int
    area: int
    along_edge: float


def find_parts(darkness: Pixels, threshold: int) -> Parts:
    """Finds the connected parts of what is darker than a threshold."""
    labels, table = find_regions(darkness, threshold, True)
    parts = Parts(labels, [], [], [], [])
    for left, top, right, bottom, area, mass, edge, _ in table.tolist():
        parts.boxes.append((left, top, right, bottom))
        parts.areas.append(area)
        parts.masses.append(mass)
        parts.along_edge.append(edge / max(2 * (right - left + bottom - top), 1))
    return parts


def members_of(group: Group, parts: Parts) -> Pixels:
    """Returns 1 for the pixels of a group, (H, W)."""
    return pick(parts.labels, np.array(group.members))


def group_parts(parts: Parts) -> list[Group]:
    """Groups parts into digits.

    Returns:
        The digits, the one with most ink first; none if the ink does not look like handwriting.
    """
    numbers = range(1, len(parts.boxes))
    if not numbers:
        return []
    main = max(numbers, key=lambda n: parts.masses[n] * max(1 - 2.5 * parts.along_edge[n], 0.01))
    least = max(2, _LEAST_PART * parts.areas[main])
    order = [n for n in numbers if parts.areas[n] >= least and parts.along_edge[n] <= ALONG_EDGE]
    order.sort(key=lambda n: (n != main, -parts.masses[n]))
    if order[:1] != [main]:
        order.insert(0, main)
    if len(order) > _MOST_PARTS:
        return []
    order = [number for number in order if not _is_frame(number, order, parts)]
    marks = order
    if _is_flat(parts.boxes[order[0]]):
        least = 0.3 * side_of(parts.boxes[order[0]])
        order.sort(key=lambda n: _is_flat(parts.boxes[n]) or side_of(parts.boxes[n]) < least)
    groups: list[Group] = []
    while order:
        group = _grow(order, parts)
        order = [number for number in order if number not in group.members]
        if not groups or _is_further_digit(group, groups[0]):
            groups.append(group)
    if sum(group.mass for group in groups) < _LEAST_SHARE * sum(parts.masses[n] for n in marks):
        return []
    return groups


def _is_frame(number: int, order: list[int], parts: Parts) -> bool:
    """Whether a part is a frame or a circle around another one, or the remains of a frame."""
    left, top, right, bottom = parts.boxes[number]
    side = side_of(parts.boxes[number])
    others = [parts.boxes[other] for other in order if other != number]
    if any(
        left < a
        and top < b
        and c < right
        and d < bottom
        and side_of((a, b, c, d)) >= _LEAST_HELD * side
        for a, b, c, d in others
    ):
        return True
    inset = 2 + side // 16
    if min(right - left, bottom - top) <= 3 * inset:
        return False
    if not any(0.3 * side <= side_of(other) < 0.9 * side for other in others):
        return False
    inner = parts.labels[top + inset : bottom - inset, left + inset : right - inset]
    return int(np.count_nonzero(inner == number)) < 0.02 * parts.areas[number]


def magnified(box: Box, factor: int) -> Box:
    """Returns a box in a picture `factor` times as large."""
    return box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor


def side_of(box: Box) -> int:
    """Returns the longer side of a box."""
    return max(box[2] - box[0], box[3] - box[1])


def _is_flat(box: Box) -> bool:
    return box[2] - box[0] >= _FLAT * (box[3] - box[1])


def _is_line(box: Box, digit: Box) -> bool:
    """Whether a part is a line under a digit, or over its middle."""
    left, top, right, bottom = box
    side = side_of(digit)
    if not _is_flat(box) or right - left < 0.3 * side:
        return False
    off_middle = abs(left + right - digit[0] - digit[2]) / 2
    is_over = bottom <= digit[1] - 0.02 * side and off_middle < _OFF_MIDDLE * (digit[2] - digit[0])
    return is_over or top >= digit[3] - 0.1 * side


def _is_further_digit(group: Group, main: Group) -> bool:
    return (
        group.along_edge <= _MOST_ALONG_EDGE
        and side_of(group.box) >= _LEAST_DIGIT * side_of(main.box)
        and group.mass >= _LEAST_MASS * main.mass
        and group.mass * main.area >= _LEAST_DARKNESS * main.mass * group.area
        and not _is_flat(group.box)
    )


def _grow(order: list[int], parts: Parts) -> Group:
    """Groups the first part with all parts near the group that are not separate digits."""
    members, waiting, found = order[:1], order[1:], True
    box = parts.boxes[members[0]]
    near = _NEAR * side_of(box)
    while found:
        found = False
        for number in waiting:
            a, b, c, d = parts.boxes[number]
            left, top, right, bottom = box
            if max(a - right, left - c, b - bottom, top - d) > near or _is_line((a, b, c, d), box):
                continue
            if not _are_side_byside_of(members[0], number, parts):
                members.append(number)
                waiting = [n for n in waiting if n != number]
                box = min(a, left), min(b, top), max(c, right), max(d, bottom)
                found = True
                break
    mass, area = (sum(sums[n] for n in members) for sums in (parts.masses, parts.areas))
    return Group(members, box, mass, area, max(parts.along_edge[n] for n in members))


def _are_side_byside_of(some: int, other: int, parts: Parts) -> bool:
    """Whether two parts are separate digits, side by side."""
    a, b = parts.boxes[some], parts.boxes[other]
    widths, heights = (a[2] - a[0], b[2] - b[0]), (a[3] - a[1], b[3] - b[1])
    common_width, common_height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    if (
        min(heights) < _LEAST_HEIGHT * max(heights)
        or common_height < _LEAST_COMMON_HEIGHT * min(heights)
        or common_width > _MOST_COMMON_WIDTH * min(widths)
    ):
        return False
    near = np.ones((1, 2 * int(_LEAST_GAP * max(heights)) + 1), np.uint8)
    around = cv2.dilate((parts.labels == some).view(np.uint8), near)
    return not np.any(around[parts.labels == other])
