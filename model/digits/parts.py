"""Connected parts of the ink, and which of them belong to one digit."""

from typing import NamedTuple

import cv2
import numpy as np

from model.arrays import Bitmap, Integers, Pixels
from model.compiling import compiled

# As shares of the main part:
_LEAST_PART = 0.015  # parts with a smaller area are dust
_NEAR = 0.3  # the largest gap between parts of a digit, as a share of its longer side
# Further digits have, compared with the main digit:
_LEAST_DIGIT = 0.5  # at least this share of its longer side,
_LEAST_MASS = 0.15  # at least this share of its ink,
_LEAST_DARKNESS = 0.6  # and at least this share of its mean darkness.
# At most this share of their outline is along the picture's edge.
_MOST_ALONG_EDGE = 0.05
# A part with more than this share of its outline along the picture's edge is a shadow.
ALONG_EDGE = 0.25
# Handwriting has at most this number of parts; noise, textures and print have more.
MOST_PARTS = 60

# Two parts are separate digits, and not pieces of one, if they stand side by side at every height:
_LEAST_HEIGHT = 0.6  # the lower one has at least this share of the taller one's height,
_LEAST_COMMON_HEIGHT = 0.6  # they share at least this share of the lower one's height,
_MOST_COMMON_WIDTH = 0.4  # and at most this share of the narrower one's width, and the gap is more
_LEAST_GAP = 0.08  # than this share of the taller one's height; in print it is 0.1, in a 4 less.

# A line is this much wider than high, and over a digit it is off its middle by at most this share of
# the digit's width. Of 158 detached bars of fives in MNIST's training set 97 % are more.
_FLAT, _MIDDLE = 2.0, 0.17
# A frame or a circle holds a part with at least this share of its height or width.
_LEAST_HELD = 0.2

Box = tuple[int, int, int, int]


class Parts(NamedTuple):
    """The 8-connected parts of the ink, numbered from 1; 0 is the paper.

    Attributes:
        labels: the number of each pixel's part, (H, W).
        boxes: left, top, right and bottom of each part, the last two exclusive, (parts, 4).
        areas: number of pixels of each part, (parts,).
        masses: sum of the darkness of each part, (parts,).
        along_edge: the share of each part's outline that is along the picture's edge, (parts,).
    """

    labels: Integers
    boxes: Integers
    areas: Integers
    masses: Integers
    along_edge: Integers


class Group(NamedTuple):
    """The parts that make up a digit.

    Attributes:
        members: the numbers of the parts.
        box: left, top, right and bottom, the last two exclusive.
        mass: the sum of the darkness of all pixels.
        area: the number of pixels.
        along_edge: the largest share of a part's outline that is along the picture's edge.
    """

    members: list[int]
    box: Box
    mass: int
    area: int
    along_edge: float

    @property
    def side(self) -> int:
        """The longer side of the box."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


def find_parts(darkness: Pixels, threshold: int) -> Parts:
    """Finds the connected parts of what is darker than a threshold."""
    ink = cv2.threshold(darkness, threshold, 1, cv2.THRESH_BINARY)[1]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    boxes = stats[:, :4].astype(np.int64)
    boxes[:, 2:] += boxes[:, :2]
    masses, outline, edge = _measure(labels, darkness, len(stats))
    return Parts(labels, boxes, stats[:, 4].astype(np.int64), masses, edge / np.maximum(outline, 1))


@compiled("UniTuple(int64[::1], 3)(int32[:, ::1], uint8[:, ::1], int64)")
def _measure(labels: Integers, darkness: Pixels, count: int) -> tuple[Integers, Integers, Integers]:
    """Returns the mass of each part, the length of its outline, and how much is along the edge."""
    height, width = labels.shape
    masses, outline = np.zeros(count, np.int64), np.zeros(count, np.int64)
    edge = np.zeros(count, np.int64)
    for y in range(height):
        for x in range(width):
            part = labels[y, x]
            if part == 0:
                continue
            masses[part] += darkness[y, x]
            for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                row, column = y + dy, x + dx
                if not (0 <= row < height and 0 <= column < width):
                    edge[part] += 1
                    outline[part] += 1
                elif labels[row, column] != part:
                    outline[part] += 1
    return masses, outline, edge


def group_parts(parts: Parts) -> list[Group]:
    """Groups parts into digits.

    Returns:
        The digits, the one with most ink first; none if the ink does not look like handwriting.
    """
    if len(parts.areas) < 2:
        return []
    weights = parts.masses * np.maximum(1 - 2.5 * parts.along_edge, 0.01)
    weights[0] = 0
    main = int(weights.argmax())
    candidates = parts.areas >= max(2, _LEAST_PART * int(parts.areas[main]))
    candidates &= parts.along_edge <= ALONG_EDGE
    candidates[main], candidates[0] = True, False
    numbers = candidates.nonzero()[0]
    if len(numbers) > MOST_PARTS:
        return []
    order = [main, *(int(n) for n in numbers[parts.masses[numbers].argsort()[::-1]] if n != main)]
    boxes = {number: tuple(parts.boxes[number].tolist()) for number in order}
    order = [number for number in order if not _is_frame(number, boxes, parts)]
    if order and _is_flat(boxes[order[0]]):
        least = 0.3 * (boxes[order[0]][2] - boxes[order[0]][0])
        order.sort(key=lambda n: _is_flat(boxes[n]) or _side(boxes[n]) < least)
    groups: list[Group] = []
    while order:
        group = _grow(order, boxes, parts)
        order = [number for number in order if number not in group.members]
        if not groups or (_is_further_digit(group, groups[0]) and not _is_flat(group.box)):
            groups.append(group)
    return groups


def _is_frame(number: int, boxes: dict[int, Box], parts: Parts) -> bool:
    """Whether a part is around another one, or beside it: a frame, its remains, or a circle."""
    left, top, right, bottom = boxes[number]
    side = max(right - left, bottom - top)
    others = [box for other, box in boxes.items() if other != number]
    if any(
        left < a and top < b and c < right and d < bottom and max(c - a, d - b) >= _LEAST_HELD * side
        for a, b, c, d in others
    ):
        return True
    if any(0.3 * side <= max(c - a, d - b) < 0.9 * side for a, b, c, d in others):
        labels = parts.labels[top:bottom, left:right]
        inset = 2 + side // 16
        inner = labels[inset:-inset, inset:-inset] if min(labels.shape) > 3 * inset else None
        return inner is not None and np.count_nonzero(inner == number) < 0.02 * parts.areas[number]
    return False


def _side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _is_flat(box: Box) -> bool:
    return box[2] - box[0] >= _FLAT * (box[3] - box[1])


def _is_line(box: Box, digit: Box) -> bool:
    """Whether a part is a line under the digit, or over its middle; the bar of a 5 is to the right."""
    left, top, right, bottom = box
    a, b, c, d = digit
    if not _is_flat(box) or right - left < 0.3 * _side(digit):
        return False
    slack = 0.1 * _side(digit)
    if top >= d - slack:
        return True
    return bottom <= b - 0.02 * _side(digit) and abs(left + right - a - c) < 2 * _MIDDLE * (c - a)


def _is_further_digit(group: Group, main: Group) -> bool:
    return (
        group.along_edge <= _MOST_ALONG_EDGE
        and group.side >= _LEAST_DIGIT * main.side
        and group.mass >= _LEAST_MASS * main.mass
        and group.mass * main.area >= _LEAST_DARKNESS * main.mass * group.area
    )


def _grow(order: list[int], boxes: dict[int, Box], parts: Parts) -> Group:
    """Groups the first part with all parts near the group that are not separate digits."""
    members, box = [order[0]], boxes[order[0]]
    near = _NEAR * max(box[2] - box[0], box[3] - box[1])
    waiting = order[1:]
    found = True
    while found:
        found = False
        for number in waiting:
            a, b, c, d = boxes[number]
            left, top, right, bottom = box
            gap = max(a - right, left - c, b - bottom, top - d)
            if gap > near or _is_line(boxes[number], box):
                continue
            if not _are_side_by_side(members[0], number, boxes, parts.labels):
                members.append(number)
                waiting = [n for n in waiting if n != number]
                box = min(a, left), min(b, top), max(c, right), max(d, bottom)
                found = True
                break
    return Group(
        members,
        box,
        mass=int(parts.masses[members].sum()),
        area=int(parts.areas[members].sum()),
        along_edge=float(parts.along_edge[members].max()),
    )


def _are_side_by_side(some: int, other: int, boxes: dict[int, Box], labels: Integers) -> bool:
    """Whether two parts are separate digits, side by side."""
    a, b = boxes[some], boxes[other]
    (width_a, height_a), (width_b, height_b) = (
        (right - left, bottom - top) for left, top, right, bottom in (a, b)
    )
    common_width = min(a[2], b[2]) - max(a[0], b[0])
    common_height = min(a[3], b[3]) - max(a[1], b[1])
    if (
        min(height_a, height_b) < _LEAST_HEIGHT * max(height_a, height_b)
        or common_height < _LEAST_COMMON_HEIGHT * min(height_a, height_b)
        or common_width > _MOST_COMMON_WIDTH * min(width_a, width_b)
    ):
        return False
    gap = _gap(labels[max(a[1], b[1]) : min(a[3], b[3])], some, other)
    return gap > _LEAST_GAP * max(height_a, height_b)


@compiled("int64(int32[:, ::1], int64, int64)")
def _gap(labels: Integers, some: int, other: int) -> int:
    """Returns the least distance of two parts in a row, if one is left of the other in all rows."""
    height, width = labels.shape
    to_right = to_left = 2 * width
    for y in range(height):
        first_a = first_b = 2 * width
        last_a = last_b = -width
        for x in range(width):
            if labels[y, x] == some:
                first_a, last_a = min(first_a, x), x
            elif labels[y, x] == other:
                first_b, last_b = min(first_b, x), x
        to_right = min(to_right, first_b - last_a)
        to_left = min(to_left, first_a - last_b)
    return max(to_right, to_left)


def pixels_of(group: Group, parts: Parts, margin: int = 0) -> Bitmap:
    """Returns which pixels of the group's box belong to it."""
    left, top, right, bottom = group.box
    labels = parts.labels[
        max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin
    ]
    if len(group.members) == 1:
        return labels == group.members[0]
    return np.isin(labels, group.members)
