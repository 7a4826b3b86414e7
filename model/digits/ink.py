"""Where the ink is in a picture of paper, in any light: how dark it is against what surrounds it.

Ink is here always darker than paper: a picture of light ink is inverted before.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Grey = NDArray[np.uint8]
Darkness = NDArray[np.float32]  # 0 is paper and 1 is black, (H, W)

# Less contrast than this, of 255, is sensor noise and no ink.
LEAST_CONTRAST = 16
# Nor is what noise reaches now and then, in its standard deviations.
_NOISE_REACH = 4
# Noise of at most so many grey levels needs no smoothing.
_QUIET = 2

# Shares of the picture's longer side. The surroundings of a pixel: wide enough to hold more paper
# than ink where a digit fills the picture, narrow enough not to mix light and shadow.
_SURROUNDINGS = 0.2
_WIDEST_STROKE = 0.25
# Polarity is judged at this size, pixels.
_POLARITY_SIDE = 64
# What the border says against the skewness.
_BORDER_WEIGHT = 0.3

# Of the ink's typical darkness: what is darker is ink.
_FAINTEST = 0.55


def is_ink_dark(grey: Grey) -> bool:
    """Whether the ink is darker than the paper.

    Ink is sparse: the differences of pixels from the mean of their surroundings are many and small
    on paper, few and large on ink. The sign of their skewness is the ink's. A digit that fills the
    picture with a thick pen leaves that open; then the border, mostly paper, has a say.
    """
    factor = -(-max(grey.shape) // _POLARITY_SIDE)
    small = np.asarray(Image.fromarray(grey).reduce(factor), dtype=np.float32)
    difference = small - _mean_around(small, max(1, round(_SURROUNDINGS * max(small.shape))))
    skewness = float((difference**3).mean()) / max(float((difference**2).mean()) ** 1.5, 1e-9)
    border = np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]])
    beyond_mean = float(np.median(border) - small.mean()) / max(float(small.std()), 1e-9)
    return bool(skewness <= _BORDER_WEIGHT * beyond_mean)


def _mean_around(values: Darkness, reach: int) -> Darkness:
    """The mean of the square of 2 reach + 1 pixels around each, edges repeated."""
    for _ in range(2):
        padded = np.pad(values, ((reach + 1, reach), (0, 0)), mode="edge")
        sums = padded.cumsum(axis=0, dtype=np.float32)
        values = ((sums[2 * reach + 1 :] - sums[: -2 * reach - 1]) / (2 * reach + 1)).T
    return values


def estimate_noise(grey: Grey) -> float:
    """Standard deviation of the noise: what no plane explains, at most pixels (Immerkaer 1996)."""
    if min(grey.shape) < 3:
        return 0.0
    values = grey.astype(np.int16)
    across = values[:, 2:] - 2 * values[:, 1:-1] + values[:, :-2]
    both = across[2:] - 2 * across[1:-1] + across[:-2]
    # 6 is the filter's norm; 0.6745 standard deviations of a normal variable hold half of it.
    return float(np.median(np.abs(both))) / (6 * 0.6745)


def smooth(grey: Grey) -> tuple[Grey, float]:
    """The picture with less noise, and the standard deviation of what is left."""
    noise = estimate_noise(grey)
    if noise <= _QUIET:
        return grey, noise
    # More would close the loops of a digit that fills a small picture.
    radius = min(0.4 + noise / 30, max(grey.shape) / 150)
    smoothed = np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(radius)))
    return smoothed, estimate_noise(smoothed)


def initial_reach(grey: Grey) -> int:
    """Half a window that the widest strokes of a digit that fills the picture fit into."""
    return max(1, round(_WIDEST_STROKE * int(max(grey.shape))))


def measure_darkness(grey: Grey, noise: float, reach: int) -> tuple[Darkness, NDArray[np.bool_]]:
    """How dark each pixel is against the paper around it, and where that is more than noise.

    A ratio of brightnesses is the same in light and in shadow. The paper's brightness under the ink
    is that of a morphological closing: unlike a mean it keeps the edges of shadows.

    Args:
        grey: brightness of dark ink on light paper, (H, W).
        noise: its standard deviation.
        reach: strokes of up to twice this width are ink, half of that at the picture's edge;
            what is dark and wider is shadow.
    """
    paper = _close(grey, reach)
    difference: Darkness = (paper - grey).astype(np.float32)
    # Noise lifts a closing above the paper.
    np.subtract(difference, float(np.quantile(difference, 0.2)), out=difference)
    stands_out = difference >= max(LEAST_CONTRAST, _NOISE_REACH * noise)
    np.maximum(difference, 0, out=difference)
    return np.divide(difference, np.maximum(paper, 1), dtype=np.float32), stands_out


def _close(grey: Grey, reach: int) -> Grey:
    """The closing by a square of 2 reach + 1 pixels, edges repeated."""
    for extreme in (np.maximum, np.minimum):
        for _ in range(2):
            grey = _slide(grey, reach, extreme).T
    return grey


def _slide(grey: Grey, reach: int, extreme: np.ufunc) -> Grey:
    """The extreme of 2 reach + 1 pixels along the columns, by windows of doubled length."""
    window, length = np.pad(grey, ((reach, reach), (0, 0)), mode="edge"), 1
    while 2 * length <= 2 * reach + 1:
        window = extreme(window[:-length], window[length:])
        length *= 2
    rest = 2 * reach + 1 - length
    return extreme(window[:-rest], window[rest:]) if rest else window


def find_threshold(darkness: Darkness) -> float:
    """What separates faint from dark, of what is not paper (Otsu 1979)."""
    marked = darkness[darkness > 0]
    counts, edges = np.histogram(marked, 128, (0.0, 1.0))
    middles = (edges[1:] + edges[:-1]) / 2
    weight, moment = counts.cumsum(), (counts * middles).cumsum()
    between = (moment[-1] * weight - moment * weight[-1]) ** 2
    between /= np.maximum(weight * (weight[-1] - weight), 1)
    best = (between >= between.max() * (1 - 1e-9)).nonzero()[0]
    # With nothing between the two classes every threshold there is as good: the middle one.
    threshold = float(edges[best[0] + 1] + edges[best[-1] + 1]) / 2
    dark = marked[marked > threshold]
    return min(threshold, _FAINTEST * float(np.median(dark if dark.size else marked)))
