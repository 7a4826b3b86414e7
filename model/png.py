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
    largest = 0
    for y in range(height):
        row = data[y * (width + 1) : (y + 1) * (width + 1)]
        if row[0] > 4:
            return -1
        for x in range(width):
            left: Any = np.int64(pixels[y, x - 1]) if x else 0
            above: Any = np.int64(pixels[y - 1, x]) if y else 0
            corner: Any = np.int64(pixels[y - 1, x - 1]) if x and y else 0
            value = (row[x + 1] + _predict(row[0], left, above, corner)) & 255
            pixels[y, x] = value
            largest = max(largest, value)
    return largest


@compiled()
def _predict(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 1:
        return left
    if kind == 2:
        return above
    if kind == 3:
        return (left + above) >> 1
    if kind == 4:
        estimate = left + above - corner
        by_left, by_above = abs(estimate - left), abs(estimate - above)
        by_corner = abs(estimate - corner)
        if by_left <= by_above and by_left <= by_corner:
            return left
        return above if by_above <= by_corner else corner
    return 0
