"""Brings pictures of digits into MNIST's convention.

MNIST's convention (LeCun, Cortes and Burges): white ink on black, 28x28, the digit scaled to a
20-pixel box with antialiasing, its centre of mass in the middle of the image.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.digits.finding import Steps, find_and_fit
from model.digits.fitting import BOX
from model.digits.parts import Box, magnified
from model.errors import InvalidPixelsError
from model.literals import SIDE, Preprocess


class Preprocessed(NamedTuple):
    """A picture in MNIST's convention.

    Attributes:
        pixels: ink 0 to 255, (28, 28). If there are several digits, the one with most ink.
        boxes: if there are several digits, the box of each from left to right, in pixels of the
            original picture; empty for a single digit.
    """

    pixels: Pixels
    boxes: tuple[Box, ...] = ()

    def magnified(self, factor: int) -> "Preprocessed":
        """Returns the result with the boxes of a picture `factor` times as large."""
        return Preprocessed(self.pixels, tuple(magnified(box, factor) for box in self.boxes))


def preprocess_image(image: Pixels, mode: Preprocess = "auto") -> Pixels:
    """Brings a greyscale picture into MNIST's convention.

    Args:
        image: brightness 0 to 255, (H, W).
        mode: "auto" finds the digit in any picture and leaves MNIST's own images unchanged. "none"
            takes a 28x28 image, white ink on black, unchanged.

    Returns:
        Ink 0 to 255, (28, 28).

    Raises:
        InvalidPixelsError: the mode is "none" and the image is not 28x28.
        NoInkError: the mode is "auto" and the picture holds no digit.
    """
    return find_digits(image, mode).pixels


def find_digits(
    image: Pixels, mode: Preprocess = "auto", steps: Steps | None = None
) -> Preprocessed:
    """Does the same as `preprocess_image`, and also returns the boxes of several digits.

    Args:
        image: brightness 0 to 255, (H, W).
        mode: see `preprocess_image`.
        steps: takes small pictures of the steps.
    """
    unchanged = take_as_it_is(image, mode)
    if unchanged is not None:
        return unchanged
    pixels, boxes = find_and_fit(image, steps)
    return Preprocessed(pixels, boxes if len(boxes) > 1 else ())


def take_as_it_is(image: Pixels, mode: Preprocess) -> Preprocessed | None:
    """Returns an image that needs no search for ink, or None if it does need one.

    These are all images if the mode is "none", and otherwise images that follow MNIST's convention,
    in either polarity.

    Raises:
        InvalidPixelsError: the mode is "none" and the image is not 28x28.
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
    """Whether an image (H, W) follows MNIST's convention; true of all of MNIST's test images.

    The longer side of the ink is 19 or 20 pixels, and its centre of mass lies in [13.5, 14.5) on
    both axes.
    """
    if image.shape != (SIDE, SIDE):
        return False
    if max(cv2.boundingRect(image)[2:]) not in (BOX - 1, BOX):
        return False
    # The sums are whole numbers below 2^24, which float32 holds exactly.
    moments: list[float] = (image.reshape(-1).astype(np.float32) @ _MOMENTS).tolist()
    total, moment_x, moment_y = moments
    return 13.5 <= moment_x / total < 14.5 and 13.5 <= moment_y / total < 14.5


def follow_convention(images: Pixels) -> NDArray[np.bool_]:
    """Which of many images, (B, 28, 28), follow MNIST's convention; (B,)."""
    fits = np.ones(len(images), np.bool_)
    places = np.arange(SIDE)
    sides = np.empty((2, len(images)), np.int64)
    for axis in (1, 2):
        ink = images.sum(axis=axis, dtype=np.uint32).astype(np.float64)  # of columns, of rows
        has_ink = ink > 0
        first, last = has_ink.argmax(axis=1), SIDE - 1 - has_ink[:, ::-1].argmax(axis=1)
        sides[axis - 1] = np.where(has_ink.any(axis=1), last - first + 1, 0)
        # Of whole numbers, exactly.
        centre = np.einsum("bi,i->b", ink, places) / np.maximum(ink.sum(axis=1), 1)
        fits &= (centre >= 13.5) & (centre < 14.5)
    return fits & np.isin(sides.max(axis=0), (BOX - 1, BOX))


# 1, the column and the row of each pixel, (784, 3).
_MOMENTS = np.stack(
    [np.ones(SIDE * SIDE), *np.indices((SIDE, SIDE))[::-1].reshape(2, -1)], 1
).astype(np.float32)
