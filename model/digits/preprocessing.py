"""Any digit image -> the MNIST convention -> the network's input: the one place for it.

MNIST's convention (LeCun, Cortes and Burges): white ink on black, 28x28, the digit scaled to a
20-pixel box with antialiasing, its centre of mass in the middle of the image.
"""

import math
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.digits.finding import Box, look_at, look_closer
from model.digits.ink import Darkness
from model.digits.strokes import adjust_width, extent
from model.errors import InvalidPixelsError
from model.literals import SIDE, Preprocess
from model.network import MLPConfig

PREPROCESS_MODES: tuple[str, ...] = get_args(Preprocess)

BOX = 20

# Strokes are brought to their width at this many times MNIST's resolution.
_FINE = 5

Pixels = NDArray[np.uint8]


class Preprocessed(NamedTuple):
    """What the network sees, and how many digits there were to choose from.

    Attributes:
        pixels: ink 0 to 255, (28, 28); of several digits the one with most ink.
        boxes: left, top, right and bottom of each digit where there are several, the last two
            exclusive, in pixels of the picture; none for a single digit.
    """

    pixels: Pixels
    boxes: tuple[Box, ...] = ()

    def magnified(self, factor: int) -> "Preprocessed":
        """The same for a picture so many times as large."""
        boxes = tuple((a * factor, b * factor, c * factor, d * factor) for a, b, c, d in self.boxes)
        return Preprocessed(self.pixels, boxes)


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
    unchanged = take_as_it_is(image, mode)
    if unchanged is not None:
        return unchanged
    look = look_at(image)
    boxes = look.boxes() if len(look.digits) > 1 else ()
    cover = look_closer(image, look).cut_out(_FINE * BOX)
    return Preprocessed(_centre(_fit_box(adjust_width(cover, BOX))), boxes)


def take_as_it_is(image: Pixels, mode: Preprocess) -> Preprocessed | None:
    """What can be had at once, without a search for ink; None: that is needed.

    Raises:
        InvalidPixelsError: "none" was asked for and the image is not 28x28.
    """
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
    if image.shape == (SIDE, SIDE) and follows_convention(~image):
        return Preprocessed(~image)
    return None


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


def _fit_box(cover: Darkness) -> Pixels:
    """Scales ink so that its longer side is 20 pixels, antialiased, its proportions kept."""
    top, bottom, left, right = extent(cover)
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
    # A centre half way between two pixels goes up and left, where `follows_convention` has it.
    top = min(max(math.ceil(SIDE / 2 - centre_y - 0.5), 0), SIDE - height)
    left = min(max(math.ceil(SIDE / 2 - centre_x - 0.5), 0), SIDE - width)
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
