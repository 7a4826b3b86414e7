"""Digits that come with the server: for the API docs, the first curl and the benchmark."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.literals import SIDE

# 28x28 images in MNIST's convention, one below the other: 0 to 9, again and again.
_STRIP = Path(__file__).parents[1] / "static" / "digits.png"

_SHOWN = 7  # the number, and the digit, of the one that the docs show


def example_digits() -> list[NDArray[np.uint8]]:
    """32 drawn digits, each ink 0 to 255, (28, 28); number i shows the digit i modulo 10."""
    with Image.open(_STRIP) as strip:
        return list(np.array(strip).reshape(-1, SIDE, SIDE))


def example_pixels() -> NDArray[np.uint8]:
    """The digit of the docs, (28, 28)."""
    return example_digits()[_SHOWN]


def example_pngs() -> list[bytes]:
    """The drawn digits as PNG files: about as many inked pixels and active units as MNIST's."""
    return [_as_png(pixels) for pixels in example_digits()]


def example_png_base64() -> str:
    """The digit of the docs as a PNG in base64: short enough for a command line."""
    return base64.b64encode(_as_png(example_pixels())).decode()


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
