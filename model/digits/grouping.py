"""Groups the connected parts of the ink into digits."""

from dataclasses import dataclass

import numpy as np

from model.arrays import Array, Bitmap, Integers
from model.digits.components import Components
from model.digits.ink import Darkness

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
_ALONG_EDGE = 0.25
# Handwriting has at most this number of parts; noise, textures and print have more.
MOST_PARTS = 60

# Two parts are separate digits, and not pieces of one, if they stand side by side at every height:
_LEAST_HEIGHT = 0.6  # the lower one has at least this share of the taller one's height,
_LEAST_COMMON_HEIGHT = 0.6  # they share at least this share of the lower one's height,
_MOST_COMMON_WIDTH = 0.4  # and at most this share of the narrower one's width, and the gap is more
_LEAST_GAP = 0.08  # than this share of the taller one's height; in print it is 0.1, in a 4 less.


@dataclass(frozen=True)
class Group:
    """The parts that make up a digit.

    Attributes:
        members: the numbers of the parts.
        box: left, top, right and bottom, the last two exclusive.
        mass: the sum of the darkness of all pixels.
        area: the number of pixels.
        along_edge: the largest share of a part's outline that is along the picture's edge.
    """

    members: list[int]
    box: Integers
    mass: float
    area: int
    along_edge: float

    @property
    def side(self) -> int:
        """The longer side of the box."""
        return int(max(self.box[2:] - self.box[:2]))


def group_parts(parts: Components, darkness: Darkness) -> list[Group]:
    """Groups parts into digits.

    Returns:
        The digits, the one with most ink first; none if the ink does not look like handwriting.
    """
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
        if not groups or _is_further_digit(group, groups[0]):
            groups.append(group)
    return groups


def _is_further_digit(group: Group, main: Group) -> bool:
    return (
        group.along_edge <= _MOST_ALONG_EDGE
        and group.side >= _LEAST_DIGIT * main.side
        and group.mass >= _LEAST_MASS * main.mass
        and group.mass / group.area >= _LEAST_DARKNESS * main.mass / main.area
    )


def _grow(
    order: list[int],
    parts: Components,
    mass: Array,
    along_edge: Array,
) -> Group:
    """Groups the first part with all parts near the group that are not separate digits."""
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
    """Whether two parts are separate digits, side by side."""
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


def _extents(part: Bitmap) -> tuple[Integers, Integers]:
    """Returns the first and last column of each row; empty rows are far outside the picture."""
    width = part.shape[1]
    empty = ~part.any(axis=1)
    first = np.where(empty, 2 * width, part.argmax(axis=1))
    last = np.where(empty, -width, width - 1 - part[:, ::-1].argmax(axis=1))
    return first, last


def _share_along_edge(parts: Components) -> Array:
    """Computes the share of each part's outline that is along the picture's edge."""
    labels = np.pad(parts.labels, 1, constant_values=-1)
    count = len(parts.areas)
    outline = np.zeros(count, dtype=np.int64)
    for before, after in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        differs = before != after
        for sides in (before[differs], after[differs]):
            outline += np.bincount(sides[sides >= 0], minlength=count)
    edge = np.concatenate([labels[1], labels[-2], labels[:, 1], labels[:, -2]])
    return np.bincount(edge[edge >= 0], minlength=count) / outline
