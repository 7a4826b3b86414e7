"""Which connected parts of the ink make up a digit, and how many digits there are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.digits.components import Components, Mask
from model.digits.ink import Darkness

Numbers = NDArray[np.int64]

# Shares of the main part or of the main digit.
_LEAST_PART = 0.015  # a smaller area is dust
_NEAR = 0.3  # parts of one digit are no further apart, in its longer sides
_LEAST_DIGIT = 0.5  # another digit has at least this longer side,
_LEAST_MASS = 0.15  # at least this much ink,
_LEAST_DARKNESS = 0.6  # which is as dark,
_MOST_ALONG_EDGE = 0.05  # and no more of its outline along the picture's edge
# A shadow lies along the picture's edge with more than this share of its outline.
_ALONG_EDGE = 0.25
# More than so many parts are no handwriting but noise, texture or print.
MOST_PARTS = 60

# Two parts are digits of their own, not pieces of one, if one is beside the other at every height:
_LEAST_HEIGHT = 0.6  # of the taller one,
_LEAST_COMMON_HEIGHT = 0.6  # of the lower one,
_MOST_COMMON_WIDTH = 0.4  # of the narrower one,
_LEAST_GAP = 0.08  # of the taller one's height: print has 0.1, and a four in two strokes less.


@dataclass(frozen=True)
class Group:
    """Parts that make up a digit.

    Attributes:
        members: their numbers.
        box: left, top, right and bottom, the last two exclusive.
        mass: the sum of their darkness.
        area: their pixels.
        along_edge: the largest share of a part's outline that is the picture's edge.
    """

    members: list[int]
    box: Numbers
    mass: float
    area: int
    along_edge: float

    @property
    def side(self) -> int:
        """The box's longer side."""
        return int(max(self.box[2:] - self.box[:2]))


def group_parts(parts: Components, darkness: Darkness) -> list[Group]:
    """The digits, the one with most ink first; none if the ink looks like no handwriting."""
    if not len(parts.areas):
        return []
    is_part = parts.labels >= 0
    mass = np.bincount(parts.labels[is_part], weights=darkness[is_part]).astype(np.float64)
    along_edge = _share_along_edge(parts)
    main = int((mass * np.maximum(1 - 2.5 * along_edge, 0.01)).argmax())
    candidates = parts.areas >= max(2, _LEAST_PART * parts.areas[main])
    candidates &= along_edge <= _ALONG_EDGE
    candidates[main] = True
    numbers = candidates.nonzero()[0]
    if len(numbers) > MOST_PARTS:
        return []
    order = [main, *(int(n) for n in numbers[mass[numbers].argsort()[::-1]] if n != main)]
    groups: list[Group] = []
    while order:
        group = _grow(order, parts, mass, along_edge)
        order = [number for number in order if number not in group.members]
        if not groups or _is_digit_beside(group, groups[0]):
            groups.append(group)
    return groups


def _is_digit_beside(group: Group, main: Group) -> bool:
    return (
        group.along_edge <= _MOST_ALONG_EDGE
        and group.side >= _LEAST_DIGIT * main.side
        and group.mass >= _LEAST_MASS * main.mass
        and group.mass / group.area >= _LEAST_DARKNESS * main.mass / main.area
    )


def _grow(
    order: list[int],
    parts: Components,
    mass: NDArray[np.float64],
    along_edge: NDArray[np.float64],
) -> Group:
    """The first part with all that are near it, or near those, and no digits of their own."""
    members, box = [order[0]], parts.boxes[order[0]].copy()
    near = _NEAR * max(box[2:] - box[:2])
    waiting = order[1:]
    found = True
    while found:
        found = False
        for number in waiting:
            other = parts.boxes[number]
            gap = max(*(other[:2] - box[2:]), *(box[:2] - other[2:]))
            if gap <= near and not _are_side_by_side(members[0], number, parts):
                members.append(number)
                waiting = [n for n in waiting if n != number]
                box[:2] = np.minimum(box[:2], other[:2])
                box[2:] = np.maximum(box[2:], other[2:])
                found = True
                break
    return Group(
        members,
        box,
        mass=float(mass[members].sum()),
        area=int(parts.areas[members].sum()),
        along_edge=float(along_edge[members].max()),
    )


def _are_side_by_side(some: int, other: int, parts: Components) -> bool:
    """Whether two parts are digits next to each other."""
    a, b = parts.boxes[some], parts.boxes[other]
    (width_a, height_a), (width_b, height_b) = a[2:] - a[:2], b[2:] - b[:2]
    common_width, common_height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (
        min(height_a, height_b) < _LEAST_HEIGHT * max(height_a, height_b)
        or common_height < _LEAST_COMMON_HEIGHT * min(height_a, height_b)
        or common_width > _MOST_COMMON_WIDTH * min(width_a, width_b)
    ):
        return False
    top, bottom = max(a[1], b[1]), min(a[3], b[3])
    labels = parts.labels[top:bottom]
    first, last = _extents(labels == some)
    other_first, other_last = _extents(labels == other)
    gap = max((other_first - last).min(), (first - other_last).min())
    return bool(gap > _LEAST_GAP * max(height_a, height_b))


def _extents(mask: Mask) -> tuple[Numbers, Numbers]:
    """First and last column of each row that has any; the others are beyond every comparison."""
    width = mask.shape[1]
    empty = ~mask.any(axis=1)
    first = np.where(empty, 2 * width, mask.argmax(axis=1))
    last = np.where(empty, -width, width - 1 - mask[:, ::-1].argmax(axis=1))
    return first, last


def _share_along_edge(parts: Components) -> NDArray[np.float64]:
    """The share of each part's outline that is the picture's edge."""
    labels = np.pad(parts.labels, 1, constant_values=-1)
    count = len(parts.areas)
    outline = np.zeros(count, dtype=np.int64)
    for before, after in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        differs = before != after
        for sides in (before[differs], after[differs]):
            outline += np.bincount(sides[sides >= 0], minlength=count)
    edge = np.concatenate([labels[1], labels[-2], labels[:, 1], labels[:, -2]])
    return np.bincount(edge[edge >= 0], minlength=count) / outline
