"""Measures ink in a picture of paper, in any light: how dark it is against the paper around it.

Ink is darker than paper here. A picture of light ink is inverted first.
"""

import numpy as np
from PIL import Image, ImageFilter

from model.arrays import Bitmap, Floats, Pixels

# 0 is paper and 1 is black, (H, W).
Darkness = Floats

# Ink has at least this contrast to the paper, in grey levels; less is sensor noise.
LEAST_CONTRAST = 16
# Ink also has at least this contrast in standard deviations of the noise.
_NOISE_REACH = 4
# Noise with at most this standard deviation, in grey levels, needs no smoothing.
_QUIET = 2

# The surroundings of a pixel, as a share of the picture's longer side: wide enough to contain more
# paper than ink if a digit fills the picture, narrow enough not to mix light and shadow.
_SURROUNDINGS = 0.2
# The widest stroke, as a share of the picture's longer side.
_WIDEST_STROKE = 0.25
# The polarity is decided at this size, pixels.
_POLARITY_SIDE = 64
# Weight of the border's brightness against the skewness.
_BORDER_WEIGHT = 0.3

# Ink has at least this share of the typical darkness of ink.
_FAINTEST = 0.55


def is_ink_dark(grey: Pixels) -> bool:
    """Whether the ink is darker than the paper.

    Ink is sparse: pixels of paper are many and differ little from the mean of their surroundings,
    pixels of ink are few and differ much. The skewness of the differences has the sign of the ink.
    It is close to 0 for a digit that fills the picture with a thick pen. The brightness of the
    border, which is mostly paper, then decides.
    """
    factor = -(-max(grey.shape) // _POLARITY_SIDE)
    small = np.asarray(Image.fromarray(grey).reduce(factor), dtype=np.float32)
    difference = small - _mean_around(small, max(1, round(_SURROUNDINGS * max(small.shape))))
    skewness = float((difference**3).mean()) / max(float((difference**2).mean()) ** 1.5, 1e-9)
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    beyond_mean = float(np.median(border) - small.mean()) / max(float(small.std()), 1e-9)
    return bool(skewness <= _BORDER_WEIGHT * beyond_mean)


def _mean_around(values: Darkness, reach: int) -> Darkness:
    """Computes the mean of the square of 2 reach + 1 pixels around each pixel, edges repeated."""
    for _ in range(2):
        padded = np.pad(values, ((reach + 1, reach), (0, 0)), mode="edge")
        sums = padded.cumsum(axis=0, dtype=np.float32)
        values = ((sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)).T
    return values


def estimate_noise(grey: Pixels) -> float:
    """Estimates the standard deviation of the noise, in grey levels.

    The estimate is the median size of what is left of each 3x3 neighbourhood without its local
    plane; Immerkaer 1996, "Fast Noise Variance Estimation".
    """
    if min(grey.shape) < 3:
        return 0.0
    values = grey.astype(np.int16)
    across = values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]
    both = across[2:] - 2 * across[1:-1] + across[:-2]
    # 6 is the filter's norm. Half of a normal distribution is within 0.6745 standard deviations.
    return float(np.median(np.abs(both))) / (6 * 0.6745)


def smooth(grey: Pixels) -> tuple[Pixels, float]:
    """Smooths a noisy picture; returns it with the standard deviation of the remaining noise."""
    noise = estimate_noise(grey)
    if noise <= _QUIET:
        return grey, noise
    # A larger radius would close the loops of a digit that fills a small picture.
    radius = min(0.4 + noise / 30, max(grey.shape) / 150)
    smoothed = np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(radius)))
    return smoothed, estimate_noise(smoothed)


def initial_reach(grey: Pixels) -> int:
    """Returns a reach for `measure_darkness` that fits a digit that fills the picture."""
    return max(1, round(_WIDEST_STROKE * int(max(grey.shape))))


def measure_darkness(grey: Pixels, noise: float, reach: int) -> tuple[Darkness, Bitmap]:
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
        The darkness, and the pixels where it is more than noise.
    """
    paper = _close(grey, reach)
    difference: Darkness = (paper - grey).astype(np.float32)
    # Noise lifts a closing above the paper.
    np.subtract(difference, float(np.quantile(difference, 0.2)), out=difference)
    stands_out = difference >= max(LEAST_CONTRAST, _NOISE_REACH * noise)
    np.maximum(difference, 0, out=difference)
    return np.divide(difference, np.maximum(paper, 1), dtype=np.float32), stands_out


def _close(grey: Pixels, reach: int) -> Pixels:
    """Computes the morphological closing by a square of 2 reach + 1 pixels, edges repeated."""
    for extreme in (np.maximum, np.minimum):
        for _ in range(2):
            grey = _slide(grey, reach, extreme).T
    return grey


def _slide(grey: Pixels, reach: int, extreme: np.ufunc) -> Pixels:
    """Computes the extreme of 2 reach + 1 pixels of each column, by windows of doubled length."""
    window, length = np.pad(grey, ((reach, reach), (0, 0)), mode="edge"), 1
    while 2 * length <= 2 * reach + 1:
        window = extreme(window[:-length], window[length:])
        length *= 2
    rest = 2 * reach + 1 - length
    return extreme(window[:-rest], window[rest:]) if rest else window


def find_threshold(darkness: Darkness) -> float:
    """Finds the darkness above which marks are ink.

    This is Otsu's threshold between faint and dark marks, or a share of the typical darkness of ink
    if that is less; Otsu 1979, "A Threshold Selection Method from Gray-Level Histograms".
    """
    marked = darkness[darkness > 0]
    counts, edges = np.histogram(marked, 128, (0.0, 1.0))
    middles = (edges[1:] + edges[:-1]) / 2
    weight, moment = counts.cumsum(), (counts * middles).cumsum()
    between = (moment[-1] * weight - moment * weight[-1]) ** 2
    between /= np.maximum(weight * (weight[-1] - weight), 1)
    best = (between >= between.max() * (1 - 1e-9)).nonzero()[0]
    # If nothing lies between the two classes, all thresholds there are as good: take the middle.
    threshold = float(edges[best[0] + 1] + edges[best[-1] + 1]) / 2
    dark = marked[marked > threshold]
    return min(threshold, _FAINTEST * float(np.median(dark if dark.size else marked)))
