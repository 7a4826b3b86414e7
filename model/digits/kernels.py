"""Compiled loops over the pixels of small pictures, which nearly all requests go through.

They compute whole numbers, so that their bits are the same on every CPU.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Integers, Pixels
from model.compiling import compiled
from model.literals import SIDE

# The longer side of the ink in MNIST's images.
_SIDES = (19, 20)


@compiled("void(Array(uint8, 3, 'C', readonly=True), boolean[::1])")
def follow_convention(images: Pixels, fits: NDArray[np.bool_]) -> None:
    """Notes which images, (B, 28, 28), follow MNIST's convention; see `preprocessing`."""
    for i in range(len(images)):
        total, moment_x, moment_y = 0, 0, 0
        left, right, top, bottom = SIDE, 0, SIDE, 0
        for y in range(SIDE):
            for x in range(SIDE):
                ink: Any = np.int64(images[i, y, x])
                total += ink
                moment_x += ink * x
                moment_y += ink * y
                if ink:
                    left, right = min(left, x), max(right, x + 1)
                    top, bottom = min(top, y), y + 1
        is_centred = (
            27 * total <= 2 * moment_x < 29 * total and 27 * total <= 2 * moment_y < 29 * total
        )
        fits[i] = is_centred and max(right - left, bottom - top) in _SIDES


@compiled("int64(uint8[:, :], float64)")
def quantile(values: Pixels, share: float) -> int:
    """Finds the value that this share of the pixels, (H, W), is below."""
    return _quantile(_count(values), share)


@compiled("int64(Array(uint8, 2, 'A', readonly=True), boolean, uint8[:, ::1])")
def clean(grey: Pixels, has_specks: bool, cleaned: Pixels) -> int:
    """Writes a picture, its specks brought into the range of their neighbours if it may have some.

    Returns:
        The median of what is left of 3x3 neighbourhoods without their planes; at most 255.
    """
    height, width = grey.shape
    for y in range(height):
        for x in range(width):
            cleaned[y, x] = grey[y, x]
    if has_specks:
        stride = width + 2
        light, dark = np.zeros((2, (height + 2) * stride), np.uint8)
        for y in range(height):
            row, negative = light[(y + 1) * stride + 1 :], dark[(y + 1) * stride + 1 :]
            for x in range(width):
                row[x], negative[x] = cleaned[y, x], ~cleaned[y, x]
        light, dark = _largest_around(light, stride), _largest_around(dark, stride)
        for y in range(height):
            lightest, darkest = light[y * stride :], dark[y * stride :]
            for x in range(width):
                cleaned[y, x] = max(min(cleaned[y, x], lightest[x]), np.uint8(~darkest[x]))
    # Rows and columns beyond the edges are those within them, mirrored.
    bends = np.empty(width + 2, np.int16)
    before, bend, after = bends[:width], bends[1:], bends[2:]
    left = np.empty((height, width), np.uint8)
    for y in range(height):
        middle, above = cleaned[y], cleaned[abs(y - 1) % height]
        below = cleaned[height - 1 - abs(height - 2 - y) % height]
        for x in range(width):
            bend[x] = np.int16(above[x]) + np.int16(below[x]) - 2 * np.int16(middle[x])
        bends[0], bends[-1] = bend[1 % width], bend[width - 1 - 1 % width]
        for x in range(width):
            left[y, x] = min(abs(before[x] + after[x] - 2 * bend[x]), 255)
    return _quantile(_count(left), 0.5)


@compiled()
def _largest_around(values: NDArray[np.uint8], stride: int) -> NDArray[np.uint8]:
    """The largest of the eight neighbours of each pixel within a margin of one pixel.

    Args:
        values: row after row, with a margin of zeros.
        stride: length of a row.
    """
    thirds = np.empty(len(values) - 2, np.uint8)
    before, middle, after = values[: len(thirds)], values[1:], values[2:]
    for i in range(len(thirds)):
        thirds[i] = max(max(before[i], middle[i]), after[i])
    largest = np.empty(len(thirds) - 2 * stride, np.uint8)
    above, below = thirds[: len(largest)], thirds[2 * stride :]
    before, after = values[stride:], values[stride + 2 :]
    for i in range(len(largest)):
        largest[i] = max(max(above[i], below[i]), max(before[i], after[i]))
    return largest


@compiled("void(uint8[:, ::1], int64, int64, uint8[:, ::1])")
def measure_darkness(grey: Pixels, least: int, reach: int, darkness: Pixels) -> None:
    """Writes the share of the paper's brightness that is missing where ink is; see `sheet`."""
    height, width = grey.shape
    paper = _close(grey, reach)
    for y in range(height):
        for x in range(width):
            darkness[y, x] = paper[y, x] - grey[y, x]
    # Noise lifts the paper: a fifth of all pixels is as light as the paper or lighter.
    lifted = _quantile(_count(darkness), 0.2)
    for y in range(height):
        for x in range(width):
            contrast: Any = np.int64(darkness[y, x]) - lifted
            whole: Any = np.int64(paper[y, x])
            darkness[y, x] = _share(contrast, whole) if contrast >= least else 0


@compiled()
def _close(grey: Pixels, reach: int) -> Pixels:
    """The morphological closing with a square that reaches this far in each direction."""
    height, width = grey.shape
    stride, size = width + 2 * reach, 2 * reach + 1
    closed = grey.copy()
    for _ in range(2):  # the second time of the negative, whose largest is the smallest
        rows = np.zeros(height * stride, np.uint8)
        for y in range(height):
            row = rows[y * stride + reach :]
            for x in range(width):
                row[x] = closed[y, x]
        rows = _largest_of_next(rows, size, 1)
        columns = np.zeros((height + 2 * reach) * width, np.uint8)
        for y in range(height):
            row, column = rows[y * stride :], columns[(y + reach) * width :]
            for x in range(width):
                column[x] = row[x]
        columns = _largest_of_next(columns, size, width)
        for y in range(height):
            column = columns[y * width :]
            for x in range(width):
                closed[y, x] = ~column[x]
    return closed


@compiled()
def _largest_of_next(values: NDArray[np.uint8], size: int, step: int) -> NDArray[np.uint8]:
    """The largest of each value and those that follow `step` apart, `size` in all.

    The largest of 2 n is the larger one of the first and the last n.
    """
    done = 1
    while done < size:
        further = min(done, size - done)
        following = values[further * step :]
        larger = np.empty(len(following), np.uint8)
        for i in range(len(larger)):
            larger[i] = max(values[i], following[i])
        values = larger
        done += further
    return values


@compiled()
def _count(values: Pixels) -> Integers:
    """How many pixels have each value, (256,)."""
    counts = np.zeros((4, 256), np.int64)  # in turn: adding to the same number again has to wait
    for row in values:
        for x in range(len(row)):
            counts[x & 3, row[x]] += 1
    for value in range(256):
        for i in range(1, 4):
            counts[0, value] += counts[i, value]
    return counts[0]


@compiled()
def _quantile(counts: Integers, share: float) -> int:
    total = 0
    for count in counts:
        total += count
    value, below = 0, counts[0]
    while value < 255 and below <= share * total:
        value += 1
        below += counts[value]
    return value


@compiled("int64(uint8[:, ::1], uint8[:, ::1])")
def sum_of_cubes(grey: Pixels, mean: Pixels) -> int:
    """Sums the cubes of the differences."""
    total = 0
    for y in range(grey.shape[0]):
        for x in range(grey.shape[1]):
            difference: Any = np.int64(grey[y, x]) - np.int64(mean[y, x])
            total += difference * difference * difference
    return total


@compiled("int64(uint8[:, ::1], int32[:, ::1])")
def number_parts(ink: Pixels, numbers: NDArray[np.int32]) -> int:
    """Writes the number of each pixel's 8-connected part, from 1 on, 0 for paper.

    Wu, Otoo and Suzuki 2009, "Two Strategies to Speed up Connected Component Labeling Algorithms".

    Returns:
        How many parts there are.
    """
    height, width = ink.shape
    # The smallest number that is known of the same part. No two pixels with new numbers touch.
    same = np.zeros((height + 1) // 2 * ((width + 1) // 2) + 1, np.int32)
    count = 0
    for y in range(height):
        for x in range(width):
            number = 0
            if ink[y, x]:
                before = numbers[y, x - 1] if x else 0
                if y:
                    before = numbers[y - 1, x - 1] if x and not before else before
                    number = numbers[y - 1, x]
                    if not number and x + 1 < width:
                        number = numbers[y - 1, x + 1]
                        if number and before:
                            one, other = _root(same, number), _root(same, before)
                            same[max(one, other)] = min(one, other)
                if not number:
                    number = before
                if not number:
                    count += 1
                    same[count] = number = count
            numbers[y, x] = number
    parts = 0
    for number in range(1, count + 1):
        if same[number] == number:
            parts += 1
            same[number] = parts
        else:
            same[number] = same[same[number]]
    for y in range(height):
        for x in range(width):
            numbers[y, x] = same[numbers[y, x]]
    return parts


@compiled("void(int32[:, ::1], uint8[:, ::1], int64[:, ::1])")
def measure_parts(numbers: NDArray[np.int32], darkness: Pixels, table: Integers) -> None:
    """Writes the measures of each part into its row, from 1 on, of a table, (parts + 1, 7).

    These are the box's left, top, right and bottom, the area, the sum of the darkness, and the
    length along the picture's edge.
    """
    height, width = numbers.shape
    table[:] = 0
    table[:, 0], table[:, 1] = width, height
    for y in range(height):
        for x in range(width):
            if numbers[y, x]:
                part = table[numbers[y, x]]
                part[0], part[1] = min(part[0], x), min(part[1], y)
                part[2], part[3] = max(part[2], x + 1), y + 1
                part[4] += 1
                part[5] += darkness[y, x]
                part[6] += (x == 0) + (y == 0) + (x == width - 1) + (y == height - 1)


@compiled()
def _root(same: NDArray[np.int32], number: int) -> int:
    while same[number] != number:
        number = same[number]
    return number


@compiled()
def _share(part: int, whole: int) -> int:
    """255 times the share, rounded as OpenCV does: half to even, at most 255, 0 of nothing."""
    if whole == 0:
        return 0
    share, rest = divmod(255 * part, whole)
    return min(255, share + (2 * rest + (share & 1) > whole))
