"""Connected components of a bitmap, found from its horizontal runs."""

from dataclasses import dataclass

import numpy as np

from model.arrays import Bitmap, Integers


@dataclass(frozen=True)
class Components:
    """The 8-connected components of a bitmap, called its parts, numbered from 0.

    Attributes:
        areas: number of pixels of each part, (parts,).
        boxes: left, top, right and bottom of each part, the last two exclusive, (parts, 4).
        labels: number of each pixel's part, -1 where the bitmap is false, (H, W).
    """

    areas: Integers
    boxes: Integers
    labels: Integers


def label(bitmap: Bitmap) -> Components:
    """Finds the parts of a bitmap."""
    height, width = bitmap.shape
    rows, starts, stops = _runs(bitmap)
    parts = _join(len(rows), *_touching(rows, starts, stops, width))
    count = int(parts.max()) + 1 if len(parts) else 0
    areas = np.bincount(parts, weights=stops - starts, minlength=count).astype(np.int64)
    boxes = np.empty((count, 4), dtype=np.int64)
    boxes[:, :2] = max(height, width)
    boxes[:, 2:] = 0
    np.minimum.at(boxes[:, 0], parts, starts)
    np.minimum.at(boxes[:, 1], parts, rows)
    np.maximum.at(boxes[:, 2], parts, stops)
    np.maximum.at(boxes[:, 3], parts, rows + 1)
    labels = np.full(bitmap.shape, -1, dtype=np.int64)
    labels[bitmap] = np.repeat(parts, stops - starts)
    return Components(areas, boxes, labels)


def _runs(bitmap: Bitmap) -> tuple[Integers, Integers, Integers]:
    """Returns row, first column and column after the last of each run, in reading order."""
    height, width = bitmap.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = bitmap
    changes = np.diff(padded.reshape(-1))
    begins, ends = (changes == 1).nonzero()[0] + 1, (changes == -1).nonzero()[0] + 1
    rows = begins // (width + 2)
    first = rows * (width + 2) + 1
    return rows, begins - first, ends - first


def _touching(
    rows: Integers, starts: Integers, stops: Integers, width: int
) -> tuple[Integers, Integers]:
    """Returns the pairs of runs in neighbouring rows that touch, also at corners."""
    stride = width + 2
    first = np.searchsorted(rows * stride + stops, (rows + 1) * stride + starts, "left")
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + stops, "right")
    counts = np.maximum(last - first, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    before = np.repeat(counts.cumsum() - counts, counts)
    return upper, np.arange(len(upper)) - before + np.repeat(first, counts)


def _join(count: int, some: Integers, others: Integers) -> Integers:
    """Returns the part of each of `count` runs, given the pairs that belong together."""
    parents = np.arange(count)
    while True:
        a, b = parents[some], parents[others]
        if (a == b).all():
            break
        np.minimum.at(parents, np.maximum(a, b), np.minimum(a, b))
        while (parents != parents[parents]).any():
            parents = parents[parents]
    return np.unique(parents, return_inverse=True)[1].astype(np.int64)
