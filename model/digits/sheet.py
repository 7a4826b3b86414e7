"""A sheet of paper as 8-bit pixels: its scale, its noise, and how dark ink is on it.

All that OpenCV does here is exact, so that its bits do not depend on a CPU's instructions.
"""

import cv2

from model.arrays import Pixels
from model.digits.loops import clean, close, compare, split

cv2.setNumThreads(1)

# Ink has this contrast in standard deviations of the noise. Less noise than `_QUIET`, in grey
# levels, needs no smoothing.
_NOISE_REACH, _QUIET = 4, 2
# In smaller pictures, pixels, a single one can be the hole of a loop.
_SPECKED = 50
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
        return image.copy(), 1
    height, width = (side - side % factor or side for side in image.shape)
    size = max(1, width // factor), max(1, height // factor)
    return cv2.resize(image[:height, :width], size, interpolation=cv2.INTER_AREA), factor


def smooth(grey: Pixels) -> tuple[Pixels, float]:
    """Smooths a noisy picture; returns it with the standard deviation of the remaining noise.

    The deviation is estimated from what is left of each 3x3 neighbourhood without its local plane;
    Immerkaer 1996, "Fast Noise Variance Estimation".
    """
    if min(grey.shape) < 3:
        return grey, 0.0
    grey, difference = clean(grey, max(grey.shape) >= _SPECKED)
    # 6 is the filter's norm. Half of a normal distribution is within 0.6745 standard deviations.
    noise = difference / (6 * 0.6745)
    if noise <= _QUIET:
        return grey, noise
    # A larger radius would close the loops of a digit that fills a small picture.
    radius = min(0.4 + noise / 30, max(grey.shape) / 150)
    side = 2 * max(1, round(2.5 * radius)) + 1
    smoothed = cv2.GaussianBlur(grey, (side, side), radius, borderType=cv2.BORDER_REPLICATE)
    return smoothed, clean(smoothed, False)[1] / (6 * 0.6745)


def measure_darkness(grey: Pixels, least: float, noise: float, reach: int) -> Pixels:
    """Measures how dark each pixel is against the paper around it.

    Darkness is a ratio of brightnesses, which is the same in light and in shadow. The brightness of
    the paper under the ink is that of a morphological closing, which keeps the edges of shadows,
    unlike a mean.

    Args:
        grey: brightness of dark ink on light paper, (H, W).
        least: the least contrast of ink, grey levels.
        noise: standard deviation of the noise, grey levels.
        reach: strokes of up to twice this width, or of up to this width at the picture's edge, are
            ink; wider dark areas are shadow.

    Returns:
        0 where it is no more than noise, 255 for black, (H, W).
    """
    return compare(grey, close(grey, reach), max(least, _NOISE_REACH * noise) - 0.5, noise > 0)


def find_ink(darkness: Pixels) -> tuple[int, int]:
    """Finds the darkness above which marks are ink, and that of most ink; (0, 0) without marks.

    The threshold is Otsu's between faint and dark marks, or a share of the typical darkness of ink
    if that is less.
    """
    threshold, typical = split(darkness, 1)
    return min(threshold, int(_FAINTEST * typical)), typical
