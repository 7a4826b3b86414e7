"""Undoes the filters of a PNG's rows: the part of decoding that is a loop over pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.compiling import compiled


@compiled("int64(Array(uint8, 1, 'C', readonly=True), uint8[:, ::1])")
def undo_filters(data: NDArray[np.uint8], pixels: Pixels) -> int:
    """Computes the pixels of a greyscale PNG, (H, W), from its rows, each after its filter's type.

    The filters are those of section 9 of the PNG specification.

    Returns:
        The largest value; -1: there is no such filter.
    """
    height, width = pixels.shape
    made = np.zeros(width, np.uint8)  # the latest row
    most = np.zeros(width, np.uint8)  # of each column
    for y in range(height):
        kind, values = data[y * (width + 1)], data[y * (width + 1) + 1 :][:width]
        if kind == 0:
            for x in range(width):
                made[x] = values[x]
        elif kind == 2:
            for x in range(width):
                made[x] += values[x]
        elif kind <= 4:
            left = corner = 0
            for x in range(width):
                above: Any = np.int64(made[x])
                left = (values[x] + _predict(kind, left, above, corner)) & 255
                made[x], corner = left, above
        else:
            return -1
        for x in range(width):
            pixels[y, x] = made[x]
            most[x] = max(most[x], made[x])
    largest: Any = np.uint8(0)
    for x in range(width):
        largest = max(largest, most[x])
    return int(largest)


@compiled()
def _predict(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 3:
        return (left + above) >> 1
    estimate = left + above - corner
    by_left, by_above = abs(estimate - left), abs(estimate - above)
    by_corner = abs(estimate - corner)
    if by_left <= by_above and by_left <= by_corner:
        return left
    return above if by_above <= by_corner else corner
