"""Any digit image -> the MNIST convention -> the network's input: the one place for it.

MNIST's convention (LeCun, Cortes and Burges): white ink on black, 28x28, the digit scaled to a
20-pixel box with antialiasing, its centre of mass in the middle of the image.
"""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.errors import InvalidPixelsError, NoInkError
from model.mlp import MLPConfig

Preprocess = Literal["auto", "none"]
PREPROCESS_MODES: tuple[str, ...] = get_args(Preprocess)

SIDE = 28
BOX = 20

# Ink is what exceeds this share of the image's own contrast: low enough to keep antialiased
# strokes, high enough to ignore the rings that JPEG leaves around them.
_INK_SHARE = 0.2
# Less contrast than this, of 255, is sensor noise and no ink.
_LEAST_CONTRAST = 16

Pixels = NDArray[np.uint8]


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
    if mode == "none":
        if image.shape != (SIDE, SIDE):
            height, width = image.shape
            raise InvalidPixelsError(
                f"preprocess=none needs a {SIDE}x{SIDE} image, and this one is {width}x{height}; "
                "send it with preprocess=auto"
            )
        return image
    if follows_convention(image):
        return image
    ink = _find_ink(image)
    return _centre(_fit_box(ink))


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


def _find_ink(image: Pixels) -> Pixels:
    """The digit alone as ink 0 to 255 on 0, cropped to it."""
    grey = image.astype(np.float32)
    border = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    background = float(np.median(border))
    darkest, lightest = float(grey.min()), float(grey.max())
    # Ink is on the side of the background's brightness that reaches further from it.
    ink = background - grey if background - darkest > lightest - background else grey - background
    contrast = float(ink.max())
    if contrast < _LEAST_CONTRAST:
        raise NoInkError(
            "no ink: the image is uniform; send a digit that stands out from its background"
        )
    ink = np.clip(ink / contrast, 0, 1)
    ink[ink < _INK_SHARE] = 0
    rows = ink.any(axis=1).nonzero()[0]
    columns = ink.any(axis=0).nonzero()[0]
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    digit: Pixels = np.rint(cropped * 255).astype(np.uint8)
    return digit


def _fit_box(ink: Pixels) -> Pixels:
    """Scales ink so that its longer side is 20 pixels, antialiased, its proportions kept."""
    height, width = ink.shape
    scale = BOX / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = np.asarray(
        Image.fromarray(ink).resize(size, Image.Resampling.BILINEAR), dtype=np.float32
    )
    brightest = float(resized.max())
    if brightest == 0:
        raise NoInkError("no ink: what stands out is too small to see at 28x28; send it larger")
    # A thin pen fades when it is scaled down; MNIST's strokes reach full white.
    stretched: Pixels = np.rint(resized * (255 / brightest)).astype(np.uint8)
    return stretched


def _centre(ink: Pixels) -> Pixels:
    """Places ink of at most 20x20 pixels so that its centre of mass is the middle of 28x28."""
    height, width = ink.shape
    weights = ink.astype(np.float64)
    total = weights.sum()
    centre_y = float(weights.sum(axis=1) @ np.arange(height)) / total
    centre_x = float(weights.sum(axis=0) @ np.arange(width)) / total
    top = min(max(round(SIDE / 2 - centre_y), 0), SIDE - height)
    left = min(max(round(SIDE / 2 - centre_x), 0), SIDE - width)
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
