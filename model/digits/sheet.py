"""The sheet of paper in a picture: its scale, its polarity, its noise, and how dark ink is on it.

All is 8-bit and exact, so that OpenCV's bits do not depend on the instructions that a CPU has.
"""

import cv2
import numpy as np

from model.arrays import Pixels

cv2.setNumThreads(1)

# Ink has at least this contrast to the paper, in grey levels; less is sensor noise.
LEAST_CONTRAST = 16
# Ink also has at least this contrast in standard deviations of the noise.
_NOISE_REACH = 4
# Noise with at most this standard deviation, in grey levels, needs no smoothing.
_QUIET = 2
# Ink has at least this share of the typical darkness of ink.
_FAINTEST = 0.55

# The polarity is decided at this size, pixels.
_POLARITY_SIDE = 64
# The surroundings of a pixel there, as a share of the longer side: wide enough to contain more
# paper than ink if a digit fills the picture.
_SURROUNDINGS = 0.2
# Weight of the border's brightness against the skewness.
_BORDER_WEIGHT = 0.3

_SECOND_DIFFERENCE = np.outer([1, -2, 1], [1, -2, 1]).astype(np.float32)
_RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=np.uint8)


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


def is_ink_dark(grey: Pixels) -> bool:
    """Whether the ink is darker than the paper.

    Ink is sparse: pixels of paper are many and differ little from the mean of their surroundings,
    pixels of ink are few and differ much. The skewness of the differences has the sign of the ink.
    It is close to 0 for a digit that fills the picture with a thick pen. The brightness of the
    border, which is mostly paper, then decides.
    """
    small = reduce(grey, _POLARITY_SIDE)[0]
    side = 2 * max(1, round(_SURROUNDINGS * max(small.shape))) + 1
    mean = cv2.blur(small, (side, side), borderType=cv2.BORDER_REPLICATE)
    difference = small.astype(np.int64) - mean
    square = difference * difference
    spread = int(square.sum()) / small.size
    skewness = int((square * difference).sum()) / small.size / max(spread**1.5, 1e-9)
    border = np.sort(np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]))
    total, squares = int(small.sum()), int((small.astype(np.int64) ** 2).sum())
    middle = total / small.size
    deviation = max(squares / small.size - middle * middle, 0) ** 0.5
    beyond_mean = (int(border[len(border) // 2]) - middle) / max(deviation, 1e-9)
    return skewness <= _BORDER_WEIGHT * beyond_mean


def smooth(grey: Pixels) -> tuple[Pixels, float]:
    """Smooths a noisy picture; returns it with the standard deviation of the remaining noise."""
    if min(grey.shape) < 3:
        return grey, 0.0
    # Salt, pepper and pinholes: no pixel is darker or lighter than all of its neighbours.
    darkest = cv2.erode(grey, _RING, borderType=cv2.BORDER_REPLICATE)
    lightest = cv2.dilate(grey, _RING, borderType=cv2.BORDER_REPLICATE)
    grey = cv2.min(cv2.max(grey, darkest), lightest)
    noise = estimate_noise(grey)
    if noise <= _QUIET:
        return grey, noise
    # A larger radius would close the loops of a digit that fills a small picture.
    radius = min(0.4 + noise / 30, max(grey.shape) / 150)
    side = 2 * max(1, round(2.5 * radius)) + 1
    smoothed = cv2.GaussianBlur(grey, (side, side), radius, borderType=cv2.BORDER_REPLICATE)
    return smoothed, estimate_noise(smoothed)


def estimate_noise(grey: Pixels) -> float:
    """Estimates the standard deviation of the noise, in grey levels.

    The estimate is the median size of what is left of each 3x3 neighbourhood without its local
    plane; Immerkaer 1996, "Fast Noise Variance Estimation".
    """
    both = cv2.filter2D(grey, cv2.CV_16S, _SECOND_DIFFERENCE)[1:-1, 1:-1]
    sizes = np.abs(both if both.size < 4096 else both[::2, ::2]).ravel()
    median = int(np.sort(sizes)[len(sizes) // 2])
    # 6 is the filter's norm. Half of a normal distribution is within 0.6745 standard deviations.
    return median / (6 * 0.6745)


def measure_darkness(grey: Pixels, noise: float, reach: int, least: int = LEAST_CONTRAST) -> tuple[Pixels, Pixels]:
    """Measures how dark each pixel is against the paper around it.

    Darkness is a ratio of brightnesses, which is the same in light and in shadow. The brightness of
    the paper under the ink is that of a morphological closing, which keeps the edges of shadows,
    unlike a mean.

    Args:
        grey: brightness of dark ink on light paper, (H, W).
        noise: standard deviation of the noise, grey levels.
        reach: strokes of up to twice this width, or of up to this width at the picture's edge, are
            ink; wider dark areas are shadow.

    Returns:
        The paper's brightness; and the darkness, 0 where it is no more than noise, 255 for black.
    """
    square = np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
    paper = cv2.morphologyEx(grey, cv2.MORPH_CLOSE, square, borderType=cv2.BORDER_REPLICATE)
    difference = cv2.subtract(paper, grey)
    if noise > 0:
        # Noise lifts a closing above the paper.
        counts = np.bincount(difference.ravel(), minlength=256).cumsum()
        lift = int(counts.searchsorted(grey.size // 5))
        difference = cv2.subtract(difference, (lift,))
    least = max(least, _NOISE_REACH * noise)
    difference = cv2.threshold(difference, least - 0.5, 255, cv2.THRESH_TOZERO)[1]
    return paper, cv2.divide(difference, paper, scale=255)


def find_threshold(darkness: Pixels) -> int:
    """Finds the darkness above which marks are ink; -1 if there are none.

    This is Otsu's threshold between faint and dark marks, or a share of the typical darkness of ink
    if that is less; Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".
    """
    counts = np.bincount(darkness.ravel(), minlength=256)
    counts[0] = 0
    below, moment = counts.cumsum(), (counts * np.arange(256)).cumsum()
    total = int(below[-1])
    if not total:
        return -1
    difference = (moment[-1] * below - moment * total).astype(np.float64)
    between = difference * difference / np.maximum(below * (total - below), 1)
    # If nothing lies between the two classes, all thresholds there are as good: take the middle.
    best = (between == between.max()).nonzero()[0]
    threshold = int(best[0] + best[-1]) // 2
    dark = int(below[threshold]) if below[threshold] < total else 0
    typical = int(below.searchsorted((dark + total) // 2, "right"))
    return max(min(threshold, int(_FAINTEST * typical)), 0)
