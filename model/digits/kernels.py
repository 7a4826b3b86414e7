"""Compiled loops over the pixels of small pictures, which nearly all requests go through."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
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
    counts = np.zeros(256, np.int64)
    for row in values:
        for value in row:
            counts[value] += 1
    value, below = 0, counts[0]
    while value < 255 and below <= share * values.size:
        value += 1
        below += counts[value]
    return value
