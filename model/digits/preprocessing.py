"""Brings pictures of digits into MNIST's convention.

MNIST's convention (LeCun, Cortes and Burges): white ink on black, 28x28, the digit scaled to a
20-pixel box with antialiasing, its centre of mass in the middle of the image.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Pixels
from model.digits import kernels
from model.digits.finding import Steps, find_and_fit
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
    """Returns the pixels of `find_digits` alone."""
    return find_digits(image, mode).pixels


def find_digits(
    image: Pixels, mode: Preprocess = "auto", steps: Steps | None = None
) -> Preprocessed:
    """Brings a greyscale picture into MNIST's convention.

    Args:
        image: brightness 0 to 255, (H, W).
        mode: "auto" finds the digit in any picture and leaves MNIST's own images unchanged. "none"
            takes a 28x28 image, white ink on black, unchanged.
        steps: takes small pictures of the steps.

    Raises:
        InvalidPixelsError: the mode is "none" and the image is not 28x28.
        NoInkError: the mode is "auto" and the picture holds no digit.
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
    return image.shape == (SIDE, SIDE) and bool(follow_convention(image[None])[0])


def follow_convention(images: Pixels) -> NDArray[np.bool_]:
    """Which of many images, (B, 28, 28), follow MNIST's convention; (B,)."""
    fits = np.empty(len(images), np.bool_)
    kernels.follow_convention(np.ascontiguousarray(images), fits)
    return fits
