"""Erases the printed lines of ruled or squared paper: lines that go from edge to edge."""

import cv2
import numpy as np

from model.arrays import Array, Pixels
from model.compiling import compiled

# The picture is divided into strips across the lines, each with at least this width, pixels.
_STRIPS = 12
_LEAST_STRIP = 5
# A line is visible in at least this share of the strips.
_LEAST_SHARE = 0.75
# Slopes of lines on a sheet that is held by hand, as tangents: up to 5 degrees.
_STEEPEST, _SLOPES = 0.09, 37
# Lines are at most this thick, as a share of the picture's longer side.
_THICKEST = 0.03
# Rows on each side of a line's middle that are examined.
_REACH = 6
# A line is at least this dark.
_FAINTEST = 6


def remove_lines(darkness: Pixels) -> Pixels:
    """Erases printed lines, except where ink crosses them.

    A single line is kept: it could be the bar of a digit that fills the picture.
    """
    if min(darkness.shape) < _STRIPS * _LEAST_STRIP:
        return darkness
    turned = cv2.transpose(darkness)
    across, down = _trace_lines(darkness), _trace_lines(turned)
    if len(across) + len(down) < 2:
        return darkness
    result = darkness.copy()
    _erase(result, across)
    result = cv2.transpose(result)
    _erase(result, down)
    return cv2.transpose(result)


def _trace_lines(darkness: Pixels) -> Array:
    """Returns the row of each roughly horizontal line in the middle of each strip, (lines, 12)."""
    height, width = darkness.shape
    thick = max(4, round(_THICKEST * max(height, width)))
    post = np.ones((thick + 1, 1), dtype=np.uint8)
    thin = cv2.morphologyEx(darkness, cv2.MORPH_TOPHAT, post, borderType=cv2.BORDER_REPLICATE)
    thin = cv2.threshold(thin, _FAINTEST, 255, cv2.THRESH_BINARY)[1]
    # Pairs of rows hold a line that climbs by one within the strip.
    thin = cv2.dilate(thin, np.ones((2, 1), np.uint8))
    strip = width // _STRIPS
    size = _STRIPS, height
    covered = cv2.resize(thin[:, : strip * _STRIPS], size, interpolation=cv2.INTER_AREA)
    present = covered > 127
    if present.any(axis=0).mean() < _LEAST_SHARE:
        return np.empty((0, _STRIPS))
    return _straight_lines(covered, strip)


@compiled("float64[:, ::1](uint8[:, ::1], int64)")
def _straight_lines(covered: Pixels, strip: int) -> Array:
    """Finds the lines that most strips agree on.

    Args:
        covered: how much of each row of each strip is dark on light rows, (H, 12).
        strip: the width of a strip.
    """
    height, strips = covered.shape
    share = np.zeros(height + 1)
    best, best_score = np.zeros(height + 1), 0.0
    best_slope = 0.0
    for number in range(_SLOPES):
        slope = _STEEPEST * (2 * number / (_SLOPES - 1) - 1)
        score = 0.0
        for row in range(height):
            hits, seen = 0, 0
            for i in range(strips):
                y = row + round(slope * strip * (i - (strips - 1) / 2))
                if 0 <= y < height:
                    seen += 1
                    # A tolerance of one row.
                    if covered[y, i] > 127 or (y > 0 and covered[y - 1, i] > 127):
                        hits += 1
            found = hits / max(seen, strips // 2)
            share[row] = found if found >= _LEAST_SHARE else 0.0
            score += share[row]
        if score > best_score:
            best_score, best_slope = score, slope
            best[:] = share
    lines = np.empty((height, strips))
    count, begin = 0, -1
    for row in range(height + 1):
        if best[row] > 0 and begin < 0:
            begin = row
        elif best[row] == 0 and begin >= 0:
            for i in range(strips):
                expected = (begin + row - 1) / 2 + best_slope * strip * (i - (strips - 1) / 2)
                lines[count, i] = _darkest(covered[:, i], expected)
            count, begin = count + 1, -1
    return lines[:count].copy()


@compiled()
def _darkest(column: Pixels, expected: float) -> float:
    """Returns the row near the expected one at which a strip is darkest."""
    middle = round(expected)
    most, rows, number = 127, 0, 0
    for row in range(max(0, middle - 3), min(len(column), middle + 4)):
        if column[row] > most:
            most, rows, number = column[row], row, 1
        elif column[row] == most and number:
            rows, number = rows + row, number + 1
    # The middle of a pair of rows.
    return rows / number - 0.5 if number else expected


@compiled("void(uint8[:, ::1], float64[:, ::1])")
def _erase(darkness: Pixels, lines: Array) -> None:
    """Replaces each line by the lighter of the pixels just above and just below it."""
    height, width = darkness.shape
    strips = lines.shape[1]
    strip = width // strips
    counts = np.zeros(256, np.int64)
    rows = np.zeros(width, np.int64)
    level = np.zeros(2 * _REACH + 1, np.int64)
    for value in darkness.flat:
        counts[value] += 1
    ink, rest = 255, height * width // 200
    while ink > 0 and counts[ink] <= rest:
        rest -= counts[ink]
        ink -= 1
    for line in lines:
        for x in range(width):
            place = min(max((x + 0.5) / strip - 0.5, 0.0), strips - 1.001)
            left = int(place)
            share = place - left
            rows[x] = round(line[left] * (1 - share) + line[left + 1] * share)
        for offset in range(2 * _REACH + 1):
            counts[:] = 0
            number = 0
            for x in range(width):
                y = rows[x] + offset - _REACH
                if 0 <= y < height:
                    counts[darkness[y, x]] += 1
                    number += 1
            half, value = number // 2, 0
            while value < 255 and counts[value] <= half:
                half -= counts[value]
                value += 1
            level[offset] = value
        most = level.max()
        reach = 1
        while reach < _REACH - 1 and 5 * max(
            level[_REACH - reach - 1], level[_REACH + reach + 1]
        ) > most:
            reach += 1
        # Ink on a line, or along it, is darker than the line and is kept.
        darkest = max((most + ink) / 2, 1.3 * most)
        for x in range(width):
            above, below = rows[x] - reach - 1, rows[x] + reach + 1
            lighter = darkness[above, x] if 0 <= above < height else 0
            lighter = min(lighter, darkness[below, x] if 0 <= below < height else 0)
            for y in range(max(above + 1, 0), min(below, height)):
                if lighter < darkness[y, x] <= darkest:
                    darkness[y, x] = lighter


@compiled("boolean(uint8[:, ::1], UniTuple(int64, 4))")
def strip_line(mask: Pixels, box: tuple[int, int, int, int]) -> bool:
    """Erases a line that the digit stands on, or hangs from, and that ends beyond it on both sides."""
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    found = False
    for below in (True, False):
        ends = np.zeros((2, 4), np.float64)  # columns, mean row, last column, thickness
        for end in range(2):
            count, total, thickest = 0, 0.0, 0
            for i in range(right - left):
                x = left + i if end == 0 else right - 1 - i
                first, last, number = -1, -1, 0
                for y in range(top, bottom):
                    if mask[y, x]:
                        if last != y - 1 or number == 0:
                            number += 1
                            first = y
                        last = y
                if number == 0:
                    continue
                middle = (first + last) / 2
                off = bottom - middle if below else middle - top
                if number > 1 or last - first + 1 > max(2, 0.16 * side) or off > 0.16 * side:
                    break
                count += 1
                total += middle
                thickest = max(thickest, last - first + 1)
            ends[end, 0], ends[end, 1], ends[end, 3] = count, total / max(count, 1), thickest
        if min(ends[0, 0], ends[1, 0]) < max(2.0, 0.12 * side) or right - left < 0.6 * side:
            continue
        if ends[0, 0] + ends[1, 0] > 0.95 * (right - left):
            continue
        from_x, to_x = left + ends[0, 0] / 2, right - ends[1, 0] / 2
        slope = (ends[1, 1] - ends[0, 1]) / (to_x - from_x)
        thick = max(ends[0, 3], ends[1, 3]) / 2 + 0.5
        for x in range(left, right):
            middle = ends[0, 1] + slope * (x - from_x)
            begin, end = int(np.ceil(middle - thick)), int(np.floor(middle + thick))
            beyond = begin - 1 if below else end + 1
            if top <= beyond < bottom and mask[beyond, x]:
                continue
            for y in range(max(begin, top), min(end + 1, bottom)):
                mask[y, x] = 0
        found = True
    return found
