"""Connected parts of the ink, and which of them belong to one digit."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.pixels import Box, connected_parts, crop

# Parts with less of the main one's area are dust; the largest gap in a digit, in longer sides.
_LEAST_PART, _NEAR = 0.015, 0.3
# Further digits have at least this share of the main one's longer side, and at most this share of
# their outline along the edge; a part with more than `ALONG_EDGE` of it is a shadow.
_LEAST_DIGIT, _MOST_ALONG_EDGE, ALONG_EDGE = 0.5, 0.05, 0.25
# Handwriting has at most this number of parts, print more. Digits have this share of all ink.
_MOST_PARTS, _LEAST_SHARE = 60, 0.4
# Separate digits have a gap of more than the first share of the taller one's height, in print 0.1
# and within a 4 less; and they have in common at least the second share of it.
_LEAST_GAP, _LEAST_COMMON_HEIGHT = 0.08, 0.5
# A line at a digit is this much wider than high, and over it off its middle by less than this share
# of its width. Of 158 detached bars of fives in MNIST's training set 97 % are more.
_FLAT, _OFF_MIDDLE = 2.0, 0.17
# A frame holds a part with at least this share of its longer side. Its remains are along their box.
_LEAST_HELD = 0.2
# A digit and a line that it touches are at least this wide, in heights. The line is all there is at
# both sides for at least `_BEYOND` and together `_MOST_BEYOND` of the width, and within `_THICK` of
# it from the edge; not so in 5,000 of MNIST's, enlarged.
_WIDE, _BEYOND, _MOST_BEYOND, _THICK = 0.88, 0.12, 0.85, 0.16


class Part(NamedTuple):
    """One or several 8-connected parts of the ink."""

    numbers: list[int]  # of the parts, in the picture of numbers
    box: Box
    area: int  # pixels
    # The share of the outline along the picture's edge; half of it for a part of the full height.
    along_edge: float

    @property
    def side(self) -> int:
        """The longer side."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def is_flat(self) -> bool:
        """Whether it is much wider than high."""
        return self.box[2] - self.box[0] >= _FLAT * (self.box[3] - self.box[1])


def find_parts(ink: Pixels) -> tuple[NDArray[np.int32], list[Part]]:
    """Numbers the connected parts of the ink, from 1 on, (H, W); and the parts, largest first."""
    numbers, table = connected_parts(ink)
    parts = []
    for number, (left, top, right, bottom, area, outer) in enumerate(table.tolist(), 1):
        height = bottom - top
        along = outer / (2 * (right - left + height)) / (1 + (height == len(ink)))
        parts.append(Part([number], (left, top, right, bottom), area, along))
    return numbers, sorted(parts, key=lambda part: -part.area)


def group_parts(parts: list[Part], numbers: NDArray[np.int32]) -> list[Part]:
    """Groups parts into digits, both the largest first; none if it is no handwriting."""
    if len(parts) == 1:
        return parts
    least = max(2, _LEAST_PART * parts[0].area)
    marks = parts[:1]
    marks += [each for each in parts[1:] if each.area >= least and each.along_edge <= ALONG_EDGE]
    if len(marks) > _MOST_PARTS:
        return []
    order = [part for part in marks if not _is_frame(part, marks, numbers)]
    ink = sum(part.area for part in order)
    digits: list[Part] = []
    while order:
        digit = order.pop(0)
        while near := [part for part in order if _belongs_to(part, digit)]:
            order.remove(near[0])
            digit = _joined(digit, near[0])
        is_whole = not digit.is_flat and digit.along_edge <= _MOST_ALONG_EDGE
        if not digits or (is_whole and digit.side >= _LEAST_DIGIT * digits[0].side):
            digits.append(digit)
    return digits if sum(digit.area for digit in digits) >= _LEAST_SHARE * ink else []


def _is_frame(part: Part, marks: list[Part], numbers: NDArray[np.int32]) -> bool:
    """Whether a part is a frame or a circle around another one, or the remains of a frame."""
    left, top, right, bottom = part.box
    others = [other for other in marks if other is not part]
    large = [other.box for other in others if other.side >= _LEAST_HELD * part.side]
    if any(left < a and top < b and c < right and d < bottom for a, b, c, d in large):
        return True
    inset = 2 + part.side // 16
    if not others or min(right - left, bottom - top) <= 3 * inset:
        return False
    inner = numbers[top + inset : bottom - inset, left + inset : right - inset]
    return int(np.count_nonzero(inner == part.numbers[0])) < 0.02 * part.area


def _belongs_to(part: Part, digit: Part) -> bool:
    """Whether a part is near a digit, and neither a line under or over it nor another digit."""
    a, b, c, d = part.box
    left, top, right, bottom = digit.box
    gap = max(a - right, left - c)
    if max(gap, b - bottom, top - d) > _NEAR * digit.side:
        return False
    if part.is_flat:
        is_centred = abs(a + c - left - right) / 2 < _OFF_MIDDLE * (right - left)
        if (d <= top and is_centred) or b >= bottom - 0.1 * digit.side:
            return False
    # Digits of their own are side by side, with a gap.
    height, common = max(d - b, bottom - top), min(d, bottom) - max(b, top)
    return gap <= _LEAST_GAP * height or common < _LEAST_COMMON_HEIGHT * height


def _joined(some: Part, other: Part) -> Part:
    a, b = some.box, other.box
    box = min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
    along_edge = max(some.along_edge, other.along_edge)
    return Part(some.numbers + other.numbers, box, some.area + other.area, along_edge)


def strip_line(mask: Pixels, box: Box) -> None:
    """Erases from a digit a line over it or under it, which it touches."""
    upright = crop(mask, box)
    height, width = upright.shape
    if width < _WIDE * height:
        return
    y, x = np.arange(height)[:, None], np.arange(width)
    for ink in (upright, upright[::-1]):
        lowest = height - 1 - ink[::-1].argmax(axis=0)
        is_line = lowest <= max(2, _THICK * width)
        left, right = (int(np.append(side, False).argmin()) for side in (is_line, is_line[::-1]))
        if min(left, right) < max(2, _BEYOND * width) or left + right > _MOST_BEYOND * width:
            continue
        # Between the ends, the lower edge of the line goes straight on.
        edges = lowest[:left].mean(), lowest[width - right :].mean()
        edge = np.interp(x, (left / 2, width - right / 2), edges)
        ink[y <= edge + 1] = 0
        ink[:, :left] = ink[:, width - right :] = 0
