"""What can happen to the digits of a source: shifts to measure on, and others to choose on."""

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.corruption import blur, contrast, dots, lines, noise, spatter

Pixels = NDArray[np.uint8]
Shift = Callable[[Pixels], Pixels]

SEED = 1_000_000
_CENTRE = 13.5


def _corrupted(corrupt: Callable[..., Any]) -> Shift:
    def shift(pixels: Pixels) -> Pixels:
        changed = corrupt(pixels.astype(np.float32), np.random.default_rng(SEED))
        clipped: Pixels = np.clip(changed, 0, 255).astype(np.uint8)
        return clipped

    return shift


def _warped(degrees: float = 0, scale: float = 1, right: float = 0) -> Shift:
    matrix = cv2.getRotationMatrix2D((_CENTRE, _CENTRE), degrees, scale)
    matrix[0, 2] += right
    return _moved(matrix)


def _linear(matrix: Any) -> Shift:
    """A linear map about the centre."""
    centre = np.full(2, _CENTRE)
    return _moved(np.column_stack([matrix, centre - np.asarray(matrix) @ centre]))


def _moved(matrix: Any) -> Shift:
    whole = np.asarray(matrix, np.float64)
    return lambda pixels: np.stack([cv2.warpAffine(image, whole, (28, 28)) for image in pixels])


def _each(change: Callable[[Any, np.random.Generator], Any]) -> Shift:
    def shift(pixels: Pixels) -> Pixels:
        generator = np.random.default_rng(SEED)
        return np.stack([change(image, generator) for image in pixels])

    return shift


def _hidden(size: int) -> Shift:
    def change(image: Pixels, generator: np.random.Generator) -> Pixels:
        y, x = generator.integers(2, 26 - size, 2)
        left = image.copy()
        left[y : y + size, x : x + size] = 0
        return left

    return _each(change)


def _elastic(pixels: float) -> Shift:
    def change(image: Pixels, generator: np.random.Generator) -> Any:
        noises = generator.normal(size=(2, 28, 28)).astype(np.float32) * 6 * pixels
        dx, dy = (cv2.GaussianBlur(each, (0, 0), 3) for each in noises)
        y, x = np.mgrid[:28, :28].astype(np.float32)
        return cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR)

    return _each(change)


def _in_perspective(pixels: float) -> Shift:
    corners = np.array([[0, 0], [27, 0], [27, 27], [0, 27]], np.float32)

    def change(image: Pixels, generator: np.random.Generator) -> Any:
        moved = corners + generator.normal(0, pixels, (4, 2)).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(corners, moved)
        return cv2.warpPerspective(image, matrix, (28, 28))

    return _each(change)


def _pixelated(pixels: int, interpolation: int) -> Shift:
    def change(image: Pixels, _: np.random.Generator) -> Any:
        small = cv2.resize(image, (pixels, pixels), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (28, 28), interpolation=interpolation)

    return _each(change)


# What is reported.
SHIFTS: Mapping[str, Shift] = {
    "noise": _corrupted(noise),
    "blur": _corrupted(blur),
    "dots": _corrupted(dots),
    "lines": _corrupted(lines),
    "spatter": _corrupted(spatter),
    "contrast": _corrupted(contrast),
    "turned 20 degrees": _warped(degrees=20),
    "turned 40 degrees": _warped(degrees=40),
    "turned 60 degrees": _warped(degrees=60),
    "60 % of the size": _warped(scale=0.6),
    "40 % of the size": _warped(scale=0.4),
    "4 pixels to the right": _warped(right=4),
    "upper half hidden": lambda pixels: np.concatenate(
        [np.zeros_like(pixels[:, :14]), pixels[:, 14:]], axis=1
    ),
}
# What something may be chosen on, with validation digits.
OTHER_SHIFTS: Mapping[str, Shift] = {
    **{f"sheared by {each}": _linear([[1, each], [0, 1]]) for each in (0.3, 0.5, 0.8, -0.5, -0.8)},
    **{f"slanted by {each}": _linear([[1, 0], [each, 1]]) for each in (0.5, 0.8)},
    **{f"{each} of the width": _linear([[each, 0], [0, 1]]) for each in (0.35, 0.5, 1.5)},
    **{f"{each} of the height": _linear([[1, 0], [0, each]]) for each in (0.45, 0.6)},
    **{f"{each} of the size": _warped(scale=each) for each in (1.3, 1.5)},
    "3 pixels to the left": _warped(right=-3),
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, :, ::-1]),
    "upside down": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "4 pixels upwards": _moved([[1, 0, 0], [0, 1, -4]]),
    **{f"square of {each} hidden": _hidden(each) for each in (6, 9, 12)},
    **{f"elastic, {each} pixels": _elastic(each) for each in (1, 2, 3)},
    **{f"in perspective, {each} pixels": _in_perspective(each) for each in (2, 4, 6)},
    "thin": _each(lambda image, _: cv2.erode(image, np.ones((3, 3), np.uint8))),
    "thick": _each(lambda image, _: cv2.dilate(image, np.ones((3, 3), np.uint8))),
    "7 pixels across": _pixelated(7, cv2.INTER_NEAREST),
    "9 pixels across": _pixelated(9, cv2.INTER_LINEAR),
}
