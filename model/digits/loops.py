"""Compiled loops over the pixels of small pictures, each of which takes the place of many steps."""

import numpy as np
from numpy.typing import NDArray

from model.arrays import Integers, Pixels
from model.compiling import compiled

Labels = NDArray[np.int32]

# Columns of `find_regions`: the box, the last two exclusive; the number of pixels; their sum; how
# many of them are along the picture's edge; and whether they are above the threshold.
LEFT, TOP, RIGHT, BOTTOM, AREA, MASS, EDGE, IS_ABOVE = range(8)


@compiled("Tuple((uint8[:, ::1], int64))(uint8[:, ::1], boolean)")
def clean(grey: Pixels, is_specked: bool) -> tuple[Pixels, int]:
    """Takes away salt, pepper and pinholes, if there may be any, and measures the noise.

    No pixel is then darker or lighter than all of its neighbours. The noise is the median size of
    the second differences across and down.
    """
    height, width = grey.shape
    cleaned = grey.copy()
    if is_specked:
        for y in range(1, height - 1):
            a, b, c, out = grey[y - 1], grey[y], grey[y + 1], cleaned[y, 1:-1]
            a0, a1, a2, b0, b2 = a[:-2], a[1:-1], a[2:], b[:-2], b[2:]
            c0, c1, c2 = c[:-2], c[1:-1], c[2:]
            for x in range(len(out)):
                low = min(min(min(a0[x], a1[x]), min(a2[x], b0[x])), min(b2[x], c0[x]))
                high = max(max(max(a0[x], a1[x]), max(a2[x], b0[x])), max(b2[x], c0[x]))
                low, high = min(low, min(c1[x], c2[x])), max(high, max(c1[x], c2[x]))
                out[x] = min(max(out[x], low), high)
    counts = np.zeros(16 * 255 + 1, np.int64)
    down = np.empty(width, np.int64)
    step = 1 if (height - 2) * (width - 2) < 4096 else 2
    for y in range(1, height - 1, step):
        above, here, below = cleaned[y - 1], cleaned[y], cleaned[y + 1]
        for x in range(width):
            down[x] = np.int64(above[x]) - 2 * np.int64(here[x]) + np.int64(below[x])
        for x in range(1, width - 1, step):
            counts[abs(down[x - 1] - 2 * down[x] + down[x + 1])] += 1
    return cleaned, _median(counts, 0)


@compiled()
def _median(counts: Integers, first: int) -> int:
    """The upper median of values from `first` on, from the number of each."""
    left = counts[first:].sum() // 2
    for value in range(first, len(counts)):
        left -= counts[value]
        if left < 0:
            return value
    return 0


@compiled("uint8[:, ::1](uint8[:, ::1], int64)")
def close(grey: Pixels, reach: int) -> Pixels:
    """The morphological closing with a square of `reach` pixels to each side."""
    return _extreme(_extreme(grey, reach, 0), reach, 255)


@compiled()
def _extreme(grey: Pixels, reach: int, inverse: int) -> Pixels:
    """The lightest pixel within a square; with 255 the darkest, as the lightest of the inverse.

    It takes logarithmic time: each step doubles the pixels seen, first down and then across.
    """
    (height, width), side = grey.shape, 2 * reach + 1
    extremes = np.empty((height, width), np.uint8)
    padded = np.zeros((height + side - 1, width + side - 1), np.uint8)
    for y in range(height):
        row, out = grey[y], padded[y + reach][reach:]
        for x in range(width):
            out[x] = row[x] ^ np.uint8(inverse)
    seen = 1
    while seen < side:
        step = min(seen, side - seen)
        for y in range(len(padded) - step):
            # Two indices at once would leave an array of any stride, without vector instructions.
            row, later = padded[y][reach : reach + width], padded[y + step][reach : reach + width]
            for x in range(width):
                row[x] = max(row[x], later[x])
        seen += step
    other = np.empty(padded.shape[1], np.uint8)
    for y in range(height):
        row, seen = padded[y], 1
        while seen < side:
            step = min(seen, side - seen)
            later = row[step:]
            for x in range(len(later)):  # into another row: in place it is one pixel at a time
                other[x] = max(row[x], later[x])
            row, other, seen = other, row, seen + step
        out = extremes[y]
        for x in range(width):
            out[x] = row[x] ^ np.uint8(inverse)
    return extremes


@compiled("uint8[:, ::1](uint8[:, ::1], uint8[:, ::1], float64, boolean)")
def compare(grey: Pixels, paper: Pixels, least: float, is_noisy: bool) -> Pixels:
    """How much darker than the paper each pixel is, of 255; 0 if by less than `least` levels."""
    height, width = grey.shape
    offset = 0
    if is_noisy:
        # Noise lifts the paper: a fifth of all pixels is as light as the paper or lighter.
        counts = np.zeros(256, np.int64)
        for y in range(height):
            for x in range(width):
                counts[paper[y, x] - grey[y, x]] += 1
        left = height * width // 5 - counts[0]
        while left > 0:
            offset += 1
            left -= counts[offset]
    darkness = np.zeros((height, width), np.uint8)
    for y in range(height):
        above, below, out = paper[y], grey[y], darkness[y]
        for x in range(width):
            difference = np.int32(above[x]) - np.int32(below[x]) - np.int32(offset)
            if difference > least:
                out[x] = (np.uint32(510 * difference) + above[x]) // np.uint32(2 * above[x])
    return darkness


@compiled("UniTuple(int64, 2)(uint8[:, ::1], int64)")
def split(values: Pixels, least: int) -> tuple[int, int]:
    """Otsu's threshold of the values from `least` on, and the median above it; 0 without any.

    Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".
    """
    counts = np.zeros(256, np.int64)
    height, width = values.shape
    for y in range(height):
        row = values[y]
        for x in range(width):
            if row[x] >= least:
                counts[row[x]] += 1
    number, total = 0, 0
    for value in range(256):
        number, total = number + counts[value], total + counts[value] * value
    below, sum_below, threshold, best, highest = 0, 0, 0, -1.0, 0
    for value in range(256):
        if counts[value]:
            highest = value
        below, sum_below = below + counts[value], sum_below + counts[value] * value
        if 0 < below < number:
            spread = float(total * below - sum_below * number)
            variance = spread * spread / (float(below) * float(number - below))
            if variance > best:
                best, threshold = variance, value
    return threshold, _median(counts, threshold + 1 if highest > threshold else 0)


@compiled("Tuple((int32[:, ::1], int64[:, ::1]))(uint8[:, ::1], int64, boolean)")
def find_regions(values: Pixels, threshold: int, is_ink: bool) -> tuple[Labels, Integers]:
    """Finds connected regions above the threshold, also over corners; or above it and below.

    Args:
        values: (H, W).
        threshold: divides the values.
        is_ink: only what is above it counts, and pixels also touch over corners.

    Returns:
        The number of each pixel's region from 1 on, or 0, (H, W); and a row for each region, with
        the columns above. In row 0 are the sums.
    """
    height, width = values.shape
    # Runs of pixels in a row: columns, whether they are above, and the first run of their region.
    first, last = np.empty(height * width, np.int32), np.empty(height * width, np.int32)
    is_above, parent = np.empty(height * width, np.bool_), np.empty(height * width, np.int32)
    ends = np.empty(height, np.int32)
    runs, begin, reach = 0, 0, 1 if is_ink else 0
    for y in range(height):
        row, over, begin, x = values[y], begin, runs, 0
        while x < width:
            kind, start = row[x] > threshold, x
            while x < width and (row[x] > threshold) == kind:
                x += 1
            if is_ink and not kind:
                continue
            first[runs], last[runs], is_above[runs], parent[runs] = start, x, kind, runs
            while over < begin and last[over] + reach <= start:
                over += 1
            other = over
            while other < begin and first[other] < x + reach:
                if is_above[other] == kind:
                    a, b = _root(parent, runs), _root(parent, other)
                    parent[max(a, b)] = min(a, b)
                other += 1
            runs += 1
        ends[y] = runs
    numbers, count = np.empty(runs, np.int32), 0
    for run in range(runs):
        root = _root(parent, run)
        if root == run:
            count += 1
        numbers[run] = count if root == run else numbers[root]
    labels = np.zeros((height, width), np.int32)
    table = np.zeros((count + 1, 8), np.int64)
    table[1:, LEFT], table[1:, TOP] = width, height
    run = 0
    for y in range(height):
        while run < ends[y]:
            number, start, stop = numbers[run], np.int64(first[run]), np.int64(last[run])  # type: ignore[assignment]
            labels[y, start:stop] = number
            found = table[number]
            found[LEFT], found[RIGHT] = min(found[LEFT], start), max(found[RIGHT], stop)
            found[TOP], found[BOTTOM] = min(found[TOP], y), y + 1
            found[AREA] += stop - start
            for x in range(start, stop):
                found[MASS] += values[y, x]
            found[EDGE] += (start == 0) + (stop == width)
            found[EDGE] += (stop - start) * ((y == 0) + (y == height - 1))
            found[IS_ABOVE] = is_above[run]
            run += 1
    for number in range(1, count + 1):
        table[0, AREA] += table[number, AREA]
        table[0, MASS] += table[number, MASS]
    return labels, table


@compiled()
def _root(parent: Labels, run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


@compiled("uint8[:, ::1](int32[:, ::1], int64[::1])")
def pick(labels: Labels, numbers: Integers) -> Pixels:
    """1 for the pixels of the regions with these numbers, (H, W)."""
    height, width = labels.shape
    mask = np.zeros((height, width), np.uint8)
    for number in numbers:
        for y in range(height):
            for x in range(width):
                mask[y, x] |= labels[y, x] == number
    return mask


@compiled("uint8[:, ::1](uint8[:, ::1], uint8[:, ::1], int32[:, ::1])")
def leave_others_out(near: Pixels, mask: Pixels, labels: Labels) -> Pixels:
    """1 for the mask and what is near it, without other regions and what touches their sides."""
    height, width = mask.shape
    allowed = mask.copy()
    for y in range(height):
        for x in range(width):
            if near[y, x] and not mask[y, x]:
                up, down = max(y - 1, 0), min(y + 1, height - 1)
                before, after = max(x - 1, 0), min(x + 1, width - 1)
                allowed[y, x] = not (
                    labels[y, x]
                    or (labels[up, x] and not mask[up, x])
                    or (labels[down, x] and not mask[down, x])
                    or (labels[y, before] and not mask[y, before])
                    or (labels[y, after] and not mask[y, after])
                )
    return allowed


@compiled("float64(uint8[:, ::1], int64)")
def stroke_width(values: Pixels, threshold: int) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length.

    The length is the mean of what lines in four directions cross (Cauchy and Crofton).
    """
    height, width = values.shape
    p = np.zeros((height + 2, width + 2), np.uint8)
    area = straight = oblique = 0
    for y in range(height + 1):
        above, here = p[y], p[y + 1]
        if y < height:
            for x in range(width):
                here[x + 1] = values[y, x] > threshold
        for x in range(width + 1):
            area += here[x]
            straight += (here[x] ^ here[x + 1]) + (here[x] ^ above[x])
            oblique += (here[x] ^ above[x + 1]) + (here[x + 1] ^ above[x])
    return 2 * area / max((straight + oblique / 2**0.5) * np.pi / 8, 1.0)


@compiled("float64(uint8[:, ::1], uint8[:, ::1], uint8[:, ::1], uint8[:, ::1])")
def share_of_sharp(mask: Pixels, grey: Pixels, lightest: Pixels, darkness: Pixels) -> float:
    """At which share of the outline the lightest nearby is at least half as light as the paper."""
    height, width = mask.shape
    outline = sharp = 0
    for y in range(height):
        for x in range(width):
            if not mask[y, x]:
                continue
            is_inner = (
                mask[max(y - 1, 0), x]
                and mask[min(y + 1, height - 1), x]
                and mask[y, max(x - 1, 0)]
                and mask[y, min(x + 1, width - 1)]
            )
            if not is_inner:
                ink = np.int64(grey[y, x])
                paper = ink * 255 // max(255 - np.int64(darkness[y, x]), 1)  # type: ignore[operator]
                outline += 1
                sharp += 2 * (np.int64(lightest[y, x]) - ink) >= paper - ink
    return sharp / max(outline, 1)


@compiled("UniTuple(int64, 5)(uint8[:, ::1])")
def extent(ink: Pixels) -> tuple[int, int, int, int, int]:
    """Returns the darkest ink, and the box of what is more than half as dark."""
    height, width = ink.shape
    columns, rows = np.zeros(width, np.uint8), np.zeros(height, np.uint8)
    for y in range(height):
        row, most = ink[y], np.uint8(0)
        for x in range(width):
            columns[x] = max(columns[x], row[x])
            most = max(most, row[x])
        rows[y] = most
    dark_columns = np.flatnonzero(columns > rows.max() // 2)
    dark_rows = np.flatnonzero(rows > rows.max() // 2)
    if not len(dark_rows):
        return 0, 0, 0, 0, 0
    left, top = dark_columns[0], dark_rows[0]
    return rows.max(), left, top, dark_columns[-1] + 1, dark_rows[-1] + 1


@compiled("uint8[:, ::1](uint8[:, ::1], float64)")
def stretch(ink: Pixels, steepness: float) -> Pixels:
    """Brings the darkest ink to 255, and makes the edges steeper in the middle of their slope."""
    height, width = ink.shape
    most = np.uint8(1)
    for y in range(height):
        for x in range(width):
            most = max(most, ink[y, x])
    stretched = np.empty(256, np.uint8)
    for value in range(256):
        scaled = np.rint(value * 255 / most) - 128
        stretched[value] = min(max(scaled * steepness + 128, 0), 255)
    out = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            out[y, x] = stretched[ink[y, x]]
    return out


@compiled("uint8[:, ::1](uint8[:, ::1], int64, int64)")
def average(values: Pixels, height: int, width: int) -> Pixels:
    """Scales down to this size: each pixel is the mean of the area that it covers."""
    rows, columns = values.shape
    halves = np.zeros((height, columns), np.int64)
    for y in range(rows):
        # In units of which a row of `values` has `height`, and one of the result `rows`.
        cell, above = y * height // rows, min(height, rows - y * height % rows)
        row, into, below = values[y], halves[cell], halves[min(cell + 1, height - 1)]
        for x in range(columns):
            into[x] += above * row[x]
        if above < height:
            for x in range(columns):
                below[x] += (height - above) * row[x]
    averages = np.empty((height, width), np.uint8)
    sums = np.empty(width, np.int64)
    for y in range(height):
        sums[:] = 0
        for x in range(columns):
            cell, before = x * width // columns, min(width, columns - x * width % columns)
            sums[cell] += before * halves[y, x]
            if before < width:
                sums[cell + 1] += (width - before) * halves[y, x]
        for x in range(width):
            averages[y, x] = (2 * sums[x] + rows * columns) // (2 * rows * columns)
    return averages


@compiled("uint8[:, ::1](uint8[:, ::1], int64)")
def centre(digit: Pixels, side: int) -> Pixels:
    """Puts a digit into a square of this side, its centre of mass in the middle."""
    height, width = digit.shape
    total = moment_x = moment_y = 0
    for y in range(height):
        for x in range(width):
            ink = np.int64(digit[y, x])
            total, moment_x, moment_y = total + ink, moment_x + ink * x, moment_y + ink * y  # type: ignore[assignment]
    # A centre half way between two pixels goes up and left, as `follows_convention` expects.
    left = -((2 * moment_x - (side - 1) * total) // (2 * total))
    top = -((2 * moment_y - (side - 1) * total) // (2 * total))
    left, top = min(max(left, 0), side - width), min(max(top, 0), side - height)
    canvas = np.zeros((side, side), np.uint8)
    canvas[top : top + height, left : left + width] = digit
    return canvas
