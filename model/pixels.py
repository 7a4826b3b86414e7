"""Boxes, and measures of 8-bit pictures.

Each measure is one compiled loop where OpenCV has several functions: in a small picture, calling
one costs as much as the work that it does.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.compiling import compiled

Box = tuple[int, ...]  # left, top, right and bottom, the last two exclusive
# Numba's type of a picture, (H, W).
PICTURE = "Array(uint8, 2, 'A', readonly=True)"


def crop(picture: Pixels, box: Box, factor: int = 1) -> Pixels:
    """Returns what is in a box, in a picture `factor` times as large."""
    left, top, right, bottom = box
    return picture[factor * top : factor * bottom, factor * left : factor * right]


def grown(box: Box, by: int) -> Box:
    """The box with a margin, which may extend past the right and bottom edges of a picture."""
    left, top, right, bottom = box
    return max(0, left - by), max(0, top - by), right + by, bottom + by


@compiled(f"int64({PICTURE}, float64)")
def quantile(values: Pixels, share: float) -> int:
    """Finds the value that this share of all is below, 0 to 255; (H, W)."""
    counts = np.zeros((4, 256), np.int64)  # in turn: adding to the same number again has to wait
    for row in values:
        for x in range(len(row)):
            counts[x & 3, row[x]] += 1
    for value in range(256):
        counts[0, value] += counts[1, value] + counts[2, value] + counts[3, value]
    return _find(counts[0], 0, share)


@compiled(f"int64({PICTURE})")
def typical_mark(values: Pixels) -> int:
    """Computes the median of the darker marks: of values above 0 the upper class of Otsu 1979.

    Args:
        values: (H, W).

    Returns:
        1 to 255; 0 if all are 0.
    """
    left, top, right, bottom = _bounds(values, 8)
    counts = np.zeros(256, np.int64)
    for y in range(top, bottom):
        for x in range(left, right):
            if values[y, x]:
                counts[values[y, x]] += 1
    marks = total = 0
    for value in range(256):
        marks, total = marks + counts[value], total + value * counts[value]
    smaller = below = 0  # the number of values up to this one, and their sum
    threshold, most = 0, 0.0
    for value in range(255):
        smaller, below = smaller + counts[value], below + value * counts[value]
        if 0 < smaller < marks:
            gap = float(total * smaller - marks * below)
            variance = gap * gap / (smaller * (marks - smaller))  # between the classes
            if variance > most:
                threshold, most = value, variance
    return _find(counts, threshold + 1, 0.5) if marks else 0


@compiled()
def _find(counts: NDArray[np.int64], first: int, share: float) -> int:
    """The first value, from `first` on, up to which there is more than this share of them."""
    left = share * counts[first:].sum()
    value = first
    while value < 255 and counts[value] <= left:
        left -= counts[value]
        value += 1
    return value


@compiled(f"Tuple((int64, boolean))({PICTURE}, float64, float64)")
def even_paper(grey: Pixels, least: float, at_edges: float) -> tuple[int, bool]:
    """Finds the brightness of at least these shares of a picture and of its edges, (H, W).

    Args:
        grey: brightness.
        least: share of the picture.
        at_edges: share of the edges, more than a half.

    Returns:
        The brightness, or -1 if there is none; and whether the rest is darker, on average.
    """
    height, width = grey.shape
    edges = np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))
    paper: Any = np.uint8(0)
    lead = 0  # of the candidate in the majority vote of Boyer and Moore 1981
    for value in edges:
        if not lead:
            paper = value
        lead += 1 if value == paper else -1
    same = total = 0
    for y in range(height):
        for x in range(width):
            same += grey[y, x] == paper
            total += grey[y, x]
    is_even = same / grey.size >= least and (edges == paper).sum() / edges.size >= at_edges
    return int(paper) if is_even else -1, total < grey.size * int(paper)


@compiled(f"int64({PICTURE})")
def count_ends(picture: Pixels) -> int:
    """Counts pixels above 0 on opposite edges: of each two edges the smaller number."""
    height, width = picture.shape
    top = bottom = left = right = 0
    for x in range(width):
        top += picture[0, x] > 0
        bottom += picture[height - 1, x] > 0
    for y in range(height):
        left += picture[y, 0] > 0
        right += picture[y, width - 1] > 0
    return min(top, bottom) + min(left, right)


@compiled(f"Tuple((int32[:, ::1], int64[:, ::1]))({PICTURE})")
def connected_parts(ink: Pixels) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Numbers the 8-connected parts of what is not 0, from 1 on, row by row.

    Returns:
        The number of each pixel's part, 0 for none, (H, W). And for each part, (N, 6): left, top,
        right, bottom, the last two exclusive, pixels, and pixels along the edges of the picture.
    """
    height, width = ink.shape
    numbers = np.zeros((height, width), np.int32)
    first_of = np.zeros(1 + height * (width // 2 + 1), np.int32)  # a touching number, or itself
    used = 0
    number: Any
    first, top, last, bottom = _bounds(ink, 8)
    for y in range(top, bottom):
        x = first
        while x < last:
            if not ink[y, x]:
                x += 1
                continue
            left, number = x, np.int32(0)
            while x < last and ink[y, x]:
                x += 1
            for k in range(max(first, left - 1), min(last, x + 1) if y > top else first):
                above = numbers[y - 1, k]
                if above and above != number:
                    while first_of[above] != above:
                        above = first_of[above]
                    if number:
                        first_of[max(number, above)] = min(number, above)
                    number = min(number, above) if number else above
            if not number:
                used += 1
                number = first_of[used] = np.int32(used)
            for k in range(left, x):
                numbers[y, k] = number
    found = 0
    for number in range(1, used + 1):
        if first_of[number] == number:
            found += 1
            first_of[number] = found
        else:
            first_of[number] = first_of[first_of[number]]
    table = np.zeros((found, 6), np.int64)
    table[:, 0], table[:, 1] = width, height
    for y in range(top, bottom):
        x = first
        while x < last:
            number, left = numbers[y, x], x
            while x < last and numbers[y, x] == number:
                numbers[y, x] = first_of[number]
                x += 1
            if number:
                part, at_edges = first_of[number] - 1, (y == 0) + (y == height - 1)
                table[part, 0], table[part, 1] = min(table[part, 0], left), min(table[part, 1], y)
                table[part, 2], table[part, 3] = max(table[part, 2], x), y + 1
                table[part, 4] += x - left
                table[part, 5] += (left == 0) + (x == width) + at_edges * (x - left)
    return numbers, table


@compiled(f"float64({PICTURE}, int64)")
def stroke_width(ink: Pixels, least: int) -> float:
    """Computes the mean width of strokes: twice their area over the length of their outlines.

    Ink is what is at least `least`, (H, W). Outlines go through the centres of its outer pixels,
    from one to the next of eight. Their length is a sum over all squares of four pixels, a method
    of Gray 1971, "Local properties of binary images in two dimensions": one diagonal where three
    are ink, one side where two neighbours are, two diagonals where two opposite corners are.
    """
    height, width = ink.shape
    above, here = np.zeros(width + 2, np.uint8), np.zeros(width + 2, np.uint8)
    area: Any = 0
    sides: Any = 0
    diagonals: Any = 0
    for y in range(height + 1):
        if y < height:
            for x in range(width):
                here[x + 1] = ink[y, x] >= least
        else:
            here[:] = 0
        for x in range(width + 1):
            inked = above[x] + above[x + 1] + here[x] + here[x + 1]
            is_corner = (inked == 2) & (above[x] == here[x + 1])
            diagonals += np.int32(inked == 3) + 2 * np.int32(is_corner)
            sides += np.int32((inked == 2) & (above[x] != here[x + 1]))
            area += np.int32(here[x])
        above, here = here, above
    return float(2 * area / max(sides + diagonals * math.sqrt(2), 1.0))


@compiled(f"UniTuple(int64, 4)({PICTURE})")
def extent(picture: Pixels) -> Box:
    """The box of what is more than half as light as the lightest, (H, W)."""
    return _bounds(picture, 1)


@compiled()
def _bounds(picture: Pixels, shift: int) -> Box:
    """The box of what is above 0 (`shift` 8) or above half of the lightest (1)."""
    height, width = picture.shape
    rows, columns = np.zeros(height, np.uint8), np.zeros(width, np.uint8)  # their lightest pixels
    most: Any = np.uint8(0)
    for y in range(height):
        lightest: Any = np.uint8(0)
        for x in range(width):
            lightest = max(lightest, picture[y, x])
            columns[x] = max(columns[x], picture[y, x])
        rows[y] = lightest
        most = max(most, lightest)
    least = most >> shift
    left, top, right, bottom = 0, 0, width, height
    while top < height and rows[top] <= least:
        top += 1
    while bottom > top and rows[bottom - 1] <= least:
        bottom -= 1
    while left < width and columns[left] <= least:
        left += 1
    while right > left and columns[right - 1] <= least:
        right -= 1
    return left, top, right, bottom


@compiled(f"float64({', '.join(3 * [PICTURE])}, UniTuple(int64, 4), int64, int64, float64)")
def sharp_share(
    grey: Pixels,
    darkness: Pixels,
    mask: Pixels,
    box: Box,
    reach: int,
    reach_if_faint: int,
    faint: float,
) -> float:
    """The share of an outline with a pixel near it that is half way from ink to paper, or lighter.

    Args:
        grey: brightness, (H, W).
        darkness: of ink against the paper, in 255ths of it, (H, W).
        mask: 1 for what is outlined, else 0, (H, W).
        box: of what is outlined.
        reach: how far near is, to each side, pixels.
        reach_if_faint: the same for what is fainter than `faint`.
        faint: the darkness of all that is outlined together.
    """
    height, width = mask.shape
    left, top, right, bottom = box
    total = 0
    for y in range(top, bottom):
        for x in range(left, right):
            total += darkness[y, x] * mask[y, x]
    if total < faint:
        reach = reach_if_faint
    outline = sharp = 0
    lightest = np.zeros(width, np.uint8)  # of each column, near the row
    for y in range(top, bottom):
        first, last, is_known = max(0, y - reach), min(height - 1, y + reach), False
        for x in range(left, right):
            if not mask[y, x] or (
                mask[max(y - 1, 0), x]
                and mask[min(y + 1, height - 1), x]
                and mask[y, max(x - 1, 0)]
                and mask[y, min(x + 1, width - 1)]
            ):
                continue
            outline += 1
            ink, light = np.float32(grey[y, x]), 255 - np.int64(darkness[y, x])
            paper = min(np.rint(np.float32(255) * ink / np.float32(light)), 255) if light else 0
            half = np.rint((paper + ink) / 2)
            begin, end = max(0, x - reach), min(width - 1, x + reach)
            # Mostly the paper is seen at once, above, below, left or right of the stroke.
            if max(grey[first, x], grey[last, x], grey[y, begin], grey[y, end]) >= half:
                sharp += 1
                continue
            if not is_known:
                is_known = True
                lightest[:] = 0
                for row in range(first, last + 1):
                    for column in range(width):
                        lightest[column] = max(lightest[column], grey[row, column])
            for column in range(begin, end + 1):
                if lightest[column] >= half:
                    sharp += 1
                    break
    return sharp / outline
