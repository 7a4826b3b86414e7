"""What the kinds of pictures share: parameters in two halves, digits on a sheet, a camera."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.samples.renderings import encode

T = TypeVar("T")
Values = NDArray[np.float32]  # brightness 0 to 255, or shares 0 to 1; (H, W) or (H, W, 3)
Point = tuple[float, float]  # x to the right and y down, in pixels
Half = Literal["tuning", "reporting"]

# Every range of a parameter is cut into cells of the same width, which belong to the halves in
# turn: both cover all of it, and neither has a value of the other.
_CELLS = 16


@dataclass(frozen=True)
class Parameters:
    """Draws the parameters of one picture from its half of each range."""

    generator: np.random.Generator
    half: Half

    def between(self, low: float, high: float) -> float:
        cell = 2 * int(self.generator.integers(_CELLS // 2)) + (self.half == "reporting")
        return float(low + (high - low) * (cell + self.generator.random()) / _CELLS)

    def on_log_scale(self, low: float, high: float) -> float:
        return float(np.exp(self.between(np.log(low), np.log(high))))

    def whole(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`; of fewer than 16, both halves have all."""
        return min(int(self.between(low, high + 1)), high)

    def chance(self, share: float) -> bool:
        return bool(self.generator.random() < share)

    def one_of(self, options: Sequence[T]) -> T:
        """An option that both halves have."""
        return options[int(self.generator.integers(len(options)))]

    def own_one_of(self, options: Sequence[T]) -> T:
        """An option that the other half does not have."""
        return self.one_of(options[self.half == "reporting" :: 2])

    def grain(self, shape: tuple[int, ...], deviation: float) -> Values:
        if shape[2:] or max(shape) > _GRAIN_SIDE // 2:
            return deviation * self.generator.standard_normal(shape, dtype=np.float32)
        top, left = self.generator.integers(0, _GRAIN_SIDE // 2, 2)
        return deviation * _grain()[top : top + shape[0], left : left + shape[1]]


# To draw a million normal numbers takes longer than all else that a photograph needs: they are cut
# out of a large field of them.
_GRAIN_SIDE = 2500


@cache
def _grain() -> Values:
    generator = np.random.default_rng(0)
    return generator.standard_normal((_GRAIN_SIDE, _GRAIN_SIDE), dtype=np.float32)


class Box(NamedTuple):
    """Pixels of a sheet; right and bottom exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def shrunk(self, by: int) -> "Box":
        return Box(self.top + by, self.left + by, self.bottom - by, self.right - by)


# Sheets


def resize(values: NDArray[np.floating[Any]], height: int, width: int) -> Values:
    shrinks = height < values.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(values.astype(np.float32), (width, height), interpolation=method))


def put(
    strokes: NDArray[np.floating[Any]],
    within: Box,
    parameters: Parameters,
    share: tuple[float, float] = (0.45, 0.9),
) -> tuple[Values, Box]:
    """Brings a digit to size and finds a place for it.

    Args:
        strokes: the digit's box.
        within: where it may lie.
        parameters: draws size and place.
        share: of the largest size that fits.

    Returns:
        The digit, and its box on the sheet.
    """
    scale = min(within.height / strokes.shape[0], within.width / strokes.shape[1])
    scale *= parameters.between(*share)
    height, width = (max(1, round(side * scale)) for side in strokes.shape)
    digit = resize(strokes, height, width)
    if scale > 1:  # the pen stays as sharp as on a small sheet
        digit = (digit - 0.5) * scale + 0.5
    top = within.top + round((within.height - height) * parameters.between(0, 1))
    left = within.left + round((within.width - width) * parameters.between(0, 1))
    return digit.clip(0, 1), Box(top, left, top + height, left + width)


def lay(digit: Values, box: Box, height: int, width: int) -> Values:
    """How much of each pixel of a sheet the digit covers."""
    cover = np.zeros((height, width), np.float32)
    cover[box.top : box.bottom, box.left : box.right] = digit
    return cover


def draw_line(cover: Values, points: Sequence[Point], thickness: float) -> None:
    """Adds a line through the points, with round ends, to how much of each pixel is covered."""
    # OpenCV's lines have no thickness between whole pixels: four times as many of them do.
    finer = 4 if max(cover.shape) <= 300 else 2
    height, width = cover.shape
    reach = thickness / 2 + 2
    xs, ys = zip(*points, strict=True)
    left, right = (int(np.clip(x, 0, width)) for x in (min(xs) - reach, max(xs) + reach))
    top, bottom = (int(np.clip(y, 0, height)) for y in (min(ys) - reach, max(ys) + reach))
    if left >= right or top >= bottom:
        return
    window = np.zeros(((bottom - top) * finer, (right - left) * finer), np.uint8)
    fine = np.rint((np.array(points) - (left, top)) * finer * 16).astype(np.int32)
    cv2.polylines(window, [fine], False, 255, max(1, round(thickness * finer)), cv2.LINE_8, 4)
    size = (right - left, bottom - top)
    drawn = cv2.resize(window, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    part = cover[top:bottom, left:right]
    np.maximum(part, drawn, out=part)


def wobble(start: Point, end: Point, deviation: float, parameters: Parameters) -> list[Point]:
    """A line as a hand draws it."""
    t = np.linspace(0, 1, 9)[:, None]
    points = np.array(start) * (1 - t) + np.array(end) * t
    bends = parameters.generator.normal(0, deviation, (5, 2))
    smooth = cv2.resize(bends, (2, 9), interpolation=cv2.INTER_CUBIC)
    return [(float(x), float(y)) for x, y in points + smooth]


def blur(values: Values, radius: float) -> Values:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), radius))


def fall(
    shape: tuple[int, ...], parameters: Parameters, lowest: float, corners: float = 0
) -> Values:
    """Light that falls off to one side, down to `lowest`, and by `corners` to the corners."""
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)
    angle = parameters.between(0, 2 * np.pi)
    slope = float(np.cos(angle)) * x + float(np.sin(angle)) * y
    light = 1 - (1 - lowest) * (slope - slope.min()) / np.ptp(slope)
    return np.asarray(light * (1 - corners / 2 * (x**2 + y**2)))


# Files


def paint(paper: float, layers: Sequence[tuple[Values, float]], parameters: Parameters) -> Values:
    """Lays inks of some brightness on paper, each where it covers."""
    height, width = layers[0][0].shape
    values = np.full((height, width), paper, np.float32)
    for cover, brightness in layers:
        values += (brightness - values) * cover
    return values


def save(values: Values, parameters: Parameters) -> bytes:
    """A drawing on a screen as PNG, or what a camera or a scanner makes of it."""
    if values.ndim == 2 and parameters.chance(0.1):
        values = 255 - values
    if parameters.chance(0.5):
        return encode(values, compress_level=1)
    values = blur(values, parameters.between(0.3, 0.9))
    values = values + parameters.grain(values.shape, parameters.between(1, 5))
    return encode(values, "JPEG", quality=parameters.whole(70, 95))
