"""Any digit image -> the MNIST convention -> the network's input: the one place for it.

MNIST's convention (LeCun, Cortes and Burges): white ink on black, 28x28, the digit scaled to a
20-pixel box with antialiasing, its centre of mass in the middle of the image.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.components import Components, Mask, label
from model.errors import InvalidPixelsError, NoInkError
from model.ink import (
    Darkness,
    find_threshold,
    initial_reach,
    is_ink_dark,
    measure_darkness,
    smooth,
)
from model.mlp import MLPConfig
from model.parts import Group, group_parts
from model.ruling import remove_lines

Preprocess = Literal["auto", "none"]
PREPROCESS_MODES: tuple[str, ...] = get_args(Preprocess)

SIDE = 28
BOX = 20

# The picture is looked at with at most this longer side; a digit that is small in it, again,
# with what is around it.
_LOOK_SIDE = 512
_SMALL_DIGIT = 100
_MARGIN = 1.0  # around a small digit, of its longer side

# Strokes are brought to their weight at this many times MNIST's resolution.
_FINE = 5
# Twice the area over the length of the outline, MNIST pixels: what 90 % of its strokes are between.
_THINNEST, _THICKEST = 2.0, 3.6
# Thinning stops before it opens what was closed.
_MOST_THINNING = 0.25
# Edges this many times as steep as the picture's own at that resolution.
_STEEPNESS = 2.5

Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """What the network sees, and how many digits there were to choose from.

    Attributes:
        pixels: ink 0 to 255, (28, 28); of several digits the one with most ink.
        boxes: left, top, right and bottom of each digit where there are several, the last two
            exclusive, in pixels of the picture; none for a single digit.
    """

    pixels: Pixels
    boxes: tuple[Box, ...] = ()


def preprocess_image(image: Pixels, mode: Preprocess = "auto") -> Pixels:
    """Brings a greyscale image to what the network was trained on.

    Args:
        image: brightness 0 to 255, (H, W).
        mode: "auto" finds the digit in any picture and leaves MNIST's own images as they are;
            "none" takes a 28x28 image, white ink on black, as it is.

    Returns:
        Ink 0 to 255, (28, 28).

    Raises:
        InvalidPixelsError: "none" was asked for and the image is not 28x28.
        NoInkError: "auto" found nothing but background.
    """
    return find_digits(image, mode).pixels


def find_digits(image: Pixels, mode: Preprocess = "auto") -> Preprocessed:
    """As `preprocess_image`, and tells where the digits are if there are several."""
    if mode == "none":
        if image.shape != (SIDE, SIDE):
            height, width = image.shape
            raise InvalidPixelsError(
                f"preprocess=none needs a {SIDE}x{SIDE} image, and this one is {width}x{height}; "
                "send it with preprocess=auto"
            )
        return Preprocessed(image)
    if follows_convention(image):
        return Preprocessed(image)
    inverse = ~image if image.shape == (SIDE, SIDE) else image
    if follows_convention(inverse):
        return Preprocessed(inverse)
    look = _look(image)
    boxes = look.boxes() if len(look.groups) > 1 else ()
    if look.factor > 1 and look.groups[0].side < _SMALL_DIGIT:
        look = _look_closer(image, look)
    return Preprocessed(_centre(_fit_box(_weigh(_cut_out(look)))), boxes)


def follows_convention(image: Pixels) -> bool:
    """Whether an image (H, W) is already in MNIST's convention; true of MNIST's own images."""
    if image.shape != (SIDE, SIDE):
        return False
    # Where the ink begins and ends, from the bytes row by row and column by column: a quarter of
    # what the same takes in NumPy, whose calls cost more than so few numbers.
    by_rows, by_columns = image.tobytes(), image.T.tobytes()
    height, width = _inked_lines(by_rows), _inked_lines(by_columns)
    if max(height, width) not in (BOX - 1, BOX):
        return False
    # The sums are whole numbers below 2^24, which float32 holds exactly.
    moments: list[float] = (image.reshape(-1).astype(np.float32) @ _MOMENTS).tolist()
    total, moment_x, moment_y = moments
    return 13.5 <= moment_x / total < 14.5 and 13.5 <= moment_y / total < 14.5


def _inked_lines(lines: bytes) -> int:
    """How many lines of an image there are from the first with ink to the last, 0 without ink."""
    first = SIDE * SIDE - len(lines.lstrip(b"\0"))
    last = len(lines.rstrip(b"\0")) - 1
    return last // SIDE - first // SIDE + 1 if last >= 0 else 0


def _moments() -> NDArray[np.float32]:
    """What a pixel adds per unit of ink: 1, its column, and its row; (784, 3)."""
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return np.stack([np.ones(SIDE * SIDE), column, row], axis=1).astype(np.float32)


_MOMENTS = _moments()


@dataclass(frozen=True)
class _Look:
    """A picture, or a part of it, scaled down, and the digits that were found in it.

    Attributes:
        darkness: of ink against paper, 0 to 1, (H, W).
        parts: the connected parts of the ink.
        groups: those that make up digits.
        factor: by how much the picture was scaled down.
    """

    darkness: Darkness
    parts: Components
    groups: list[Group]
    factor: int

    def boxes(self) -> tuple[Box, ...]:
        """Where the digits are, from the left to the right, in pixels of the picture."""
        scaled = (group.box * self.factor for group in self.groups)
        return tuple(sorted((int(a), int(b), int(c), int(d)) for a, b, c, d in scaled))


def _look(image: Pixels) -> _Look:
    factor = -(-max(image.shape) // _LOOK_SIDE)
    grey = np.asarray(Image.fromarray(image).reduce(factor)) if factor > 1 else image
    if not is_ink_dark(grey):
        grey = ~grey
    grey, noise = smooth(grey)
    reach = initial_reach(grey)
    look = None
    # The first look tells how wide the strokes are, the second leaves shadows out accordingly.
    while reach:
        darkness = remove_lines(measure_darkness(grey, noise, reach))
        if not darkness.any():
            raise NoInkError(
                "no ink: the image is uniform; send a digit that stands out from its background"
            )
        parts = label(darkness > find_threshold(darkness))
        groups = group_parts(parts, darkness)
        if not groups:
            raise NoInkError(
                "no ink: marks are all over the image, as in noise, a texture or a page of text; "
                "send a picture of one digit"
            )
        narrower = round(2 * _stroke_width(_mask(parts, groups[0]).astype(np.float32))) + 2
        reach = narrower if look is None and narrower < 0.75 * reach else 0
        look = _Look(darkness, parts, groups, factor)
    assert look is not None
    return look


def _look_closer(image: Pixels, look: _Look) -> _Look:
    """Looks at the first digit alone, at a higher resolution."""
    group = look.groups[0]
    left, top, right, bottom = group.box
    margin = round(_MARGIN * group.side)
    height, width = image.shape
    rows = slice(max(0, top - margin) * look.factor, (bottom + margin) * look.factor)
    columns = slice(max(0, left - margin) * look.factor, (right + margin) * look.factor)
    try:
        return _look(image[rows, columns])
    except NoInkError:
        return look


def _mask(parts: Components, group: Group) -> Mask:
    """The pixels of a digit within its box."""
    left, top, right, bottom = group.box
    return np.isin(parts.labels[top:bottom, left:right], group.members)


def _stroke_width(cover: Darkness) -> float:
    """Mean width of strokes that cover each pixel so far, 0 to 1: twice the area per outline.

    The outline of soft edges is their total variation (the coarea formula).
    """
    padded = np.pad(cover, 1)
    down, right = np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]
    return 2 * float(cover.sum()) / max(float(np.hypot(down, right).sum()), 1e-6)


def _cut_out(look: _Look) -> Darkness:
    """The first digit, `_FINE` times as large as in MNIST, with a margin: cover 0 to 1."""
    group = look.groups[0]
    left, top, right, bottom = group.box
    margin = max(2, round(0.12 * group.side))
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    labels = look.parts.labels[rows, columns]
    is_digit = np.isin(labels, group.members)
    ink = look.darkness[rows, columns]
    ink = np.where((labels >= 0) & ~is_digit, 0, ink / np.median(ink[is_digit]))
    scale = BOX * _FINE / group.side
    large = _resize(np.pad(ink, margin), scale, Image.Resampling.BICUBIC)
    near = _resize(np.pad(is_digit, margin), scale, Image.Resampling.BILINEAR) > 0.3
    cover = np.clip((large - 0.5) * _STEEPNESS + 0.5, 0, 1)
    return cover * _thicken(near.astype(np.float32), 3)


def _resize(values: NDArray[Any], scale: float, resampling: Image.Resampling) -> Darkness:
    height, width = values.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, resampling))


def _weigh(cover: Darkness) -> Darkness:
    """Brings the strokes to a width that MNIST has."""
    top, bottom, left, right = _extent(cover)
    pixel = max(bottom - top, right - left) / BOX
    width = _stroke_width(cover) / pixel
    if width < _THINNEST:
        radius = (_THINNEST - width) / 2 * pixel
        return _thicken(np.pad(cover, int(radius) + 1), radius)
    if width > _THICKEST:
        radius = min((width - _THICKEST) / 2, _MOST_THINNING * width) * pixel
        return 1 - _thicken(1 - cover, radius)
    return cover


def _thicken(cover: Darkness, radius: float) -> Darkness:
    """The dilation by a disc with soft edges."""
    reach = int(np.ceil(radius))
    height, width = cover.shape
    padded = np.pad(cover, reach)
    thick = cover.copy()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            weight = min(1.0, radius + 0.5 - float(np.hypot(dy, dx)))
            if weight > 0:
                moved = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                np.maximum(thick, np.float32(weight) * moved, out=thick)
    return thick


def _extent(cover: Darkness) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the ink, exclusive where they end."""
    inked = cover > 0.5 * cover.max()
    rows, columns = inked.any(axis=1).nonzero()[0], inked.any(axis=0).nonzero()[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _fit_box(cover: Darkness) -> Pixels:
    """Scales ink so that its longer side is 20 pixels, antialiased, its proportions kept."""
    top, bottom, left, right = _extent(cover)
    height, width = bottom - top, right - left
    scale = BOX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(cover)
    box = (left, top, right, bottom)
    scaled = np.asarray(picture.resize(size, Image.Resampling.BOX, box=box))
    # MNIST's strokes reach full white.
    ink: Pixels = np.rint(scaled * (255 / scaled.max())).astype(np.uint8)
    return ink


def _centre(ink: Pixels) -> Pixels:
    """Places ink of at most 20x20 pixels so that its centre of mass is the middle of 28x28."""
    height, width = ink.shape
    weights = ink.astype(np.float64)
    total = weights.sum()
    centre_y = float(weights.sum(axis=1) @ np.arange(height)) / total
    centre_x = float(weights.sum(axis=0) @ np.arange(width)) / total
    top = min(max(math.floor(SIDE / 2 - centre_y + 0.5), 0), SIDE - height)
    left = min(max(math.floor(SIDE / 2 - centre_x + 0.5), 0), SIDE - width)
    canvas = np.zeros((SIDE, SIDE), dtype=np.uint8)
    canvas[top : top + height, left : left + width] = ink
    return canvas


def normalise(pixels: Pixels, config: MLPConfig) -> Tensor:
    """The network's input: (pixels / 255 - mean) / std.

    Args:
        pixels: ink 0 to 255, (B, 28, 28) or (28, 28).
        config: gives mean and standard deviation.

    Returns:
        float32, (B, 784); B is 1 for a single image.
    """
    flat = torch.from_numpy(np.ascontiguousarray(pixels)).reshape(-1, config.layer_sizes[0])
    return (flat.to(torch.float32) / 255 - config.mean) / config.std
