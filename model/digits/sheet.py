"""A sheet of paper as 8-bit pixels: its scale, its noise, and how dark ink is on it.

All that OpenCV does here is exact, so that its bits do not depend on a CPU's instructions.
"""

import math
from functools import cache

import cv2
import numpy as np

from model.arrays import Pixels
from model.digits import kernels

cv2.setNumThreads(1)

# Ink has this contrast in standard deviations of the noise.
_NOISE_REACH = 4
# In smaller pictures, pixels, a single one can be the hole of a loop.
SPECKED = 50
# Ink has at least this share of the typical darkness of ink.
_FAINTEST = 0.55


def reduce(image: Pixels, longest: int) -> tuple[Pixels, int]:
    """Averages squares of pixels until the longer side is at most `longest`.

    Returns:
        The picture, without what does not fill a square at its right and lower edge; and the side
        of the squares.
    """
    factor = -(-max(image.shape) // longest)
    if factor <= 1:
        return image, 1
    height, width = (side - side % factor or side for side in image.shape)
    size = max(1, width // factor), max(1, height // factor)
    return cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA), factor


def clean(grey: Pixels) -> tuple[Pixels, float]:
    """Takes away salt, pepper and pinholes, and estimates the noise's standard deviation.

    Without salt no pixel is darker or lighter than all of its neighbours. Noise is what is left of
    each 3x3 neighbourhood without its local plane; Immerkaer 1996, "Fast Noise Variance
    Estimation". Its median hardly depends on strokes.
    """
    cleaned = np.empty(grey.shape, np.uint8)
    left = kernels.clean(grey, max(grey.shape) >= SPECKED, cleaned)
    # 6 is the filter's norm. Half of a normal distribution is within 0.6745 standard deviations.
    return cleaned, left / (6 * 0.6745)


@cache
def square(radius: int) -> Pixels:
    """Returns a square of ones, as a neighbourhood."""
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def measure_darkness(grey: Pixels, least: float, noise: float, reach: int) -> Pixels:
    """Measures how dark each pixel is against the paper around it: 0, or up to 255 for black.

    Darkness is a ratio of brightnesses, which is the same in light and in shadow. The brightness of
    the paper under the ink is that of a morphological closing, which keeps the edges of shadows,
    unlike a mean.

    Args:
        grey: brightness of dark ink on light paper, (H, W).
        least: the least contrast of ink, grey levels.
        noise: standard deviation of the noise, grey levels.
        reach: strokes of up to twice this width, or of up to this width at the picture's edge, are
            ink; wider dark areas are shadow.
    """
    least = math.ceil(max(least, _NOISE_REACH * noise) - 0.5)
    darkness = np.empty_like(grey)
    kernels.measure_darkness(grey, least, reach, darkness)
    return darkness


def find_ink(darkness: Pixels) -> tuple[int, int]:
    """Finds the darkness above which marks are ink, and that of most ink; (0, 0) without marks.

    The threshold is Otsu's between faint and dark marks, or a share of the typical darkness of ink
    if that is less; Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".
    """
    marks = darkness[darkness > 0]
    if not marks.size:
        return 0, 0
    threshold = int(cv2.threshold(marks, 0, 0, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])
    dark = marks[marks > threshold]
    typical = kernels.quantile((dark if dark.size else marks)[None], 0.5)
    return min(threshold, int(_FAINTEST * typical)), typical
