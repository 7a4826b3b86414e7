"""Measures the width of a pen's strokes, and changes it."""

import numpy as np

from model.digits.ink import Darkness

# Limits of the stroke width, in MNIST's pixels: 25 % of MNIST's training images have less than the
# first, and 4 % have more than the second.
_THINNEST, _THICKEST = 2.0, 3.6
# Strokes are thinned by at most this share of their width, so that no stroke breaks.
_MOST_THINNING = 0.25


def adjust_width(cover: Darkness, side: int) -> Darkness:
    """Brings the strokes of a digit to a width that is common in MNIST.

    Args:
        cover: the share of each pixel that strokes cover, 0 to 1, (H, W).
        side: the longer side that the digit will have, in MNIST's pixels.
    """
    top, bottom, left, right = extent(cover)
    pixel = max(bottom - top, right - left) / side
    width = stroke_width(cover) / pixel
    if width < _THINNEST:
        radius = (_THINNEST - width) / 2 * pixel
        return thicken(np.pad(cover, int(radius) + 1), radius)
    if width > _THICKEST:
        radius = min((width - _THICKEST) / 2, _MOST_THINNING * width) * pixel
        return 1 - thicken(1 - cover, radius)
    return cover


def stroke_width(cover: Darkness) -> float:
    """Computes the mean width of strokes, pixels: twice their area over their outline's length.

    The length of a soft outline is the total variation of `cover` (the coarea formula).
    """
    padded = np.pad(cover, 1)
    down, right = np.diff(padded, axis=0)[:, :-1], np.diff(padded, axis=1)[:-1]
    return 2 * float(cover.sum()) / max(float(np.hypot(down, right).sum()), 1e-6)


def thicken(cover: Darkness, radius: float) -> Darkness:
    """Computes the dilation by a disc with soft edges."""
    reach = int(np.ceil(radius))
    height, width = cover.shape
    padded = np.pad(cover, reach)
    thick = cover.copy()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            weight = min(1.0, radius + 0.5 - float(np.hypot(dy, dx)))
            if weight > 0:
                moved = padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
                np.maximum(thick, np.float32(weight) * moved, out=thick)
    return thick


def extent(cover: Darkness) -> tuple[int, int, int, int]:
    """Returns top, bottom, left and right of the ink, bottom and right exclusive."""
    inked = cover > 0.5 * cover.max()
    rows, columns = inked.any(axis=1).nonzero()[0], inked.any(axis=0).nonzero()[0]
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
