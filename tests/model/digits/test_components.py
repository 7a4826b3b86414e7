"""Parts of a bitmap are what a flood fill finds."""

import numpy as np
import pytest

from model.arrays import Bitmap, Integers
from model.digits.components import label


def flood(bitmap: Bitmap) -> Integers:
    """The part of each pixel, numbered in reading order, found pixel by pixel."""
    labels = np.full(bitmap.shape, -1, dtype=np.int64)
    count = 0
    for start in zip(*bitmap.nonzero(), strict=True):
        if labels[start] >= 0:
            continue
        waiting = [start]
        labels[start] = count
        while waiting:
            row, column = waiting.pop()
            for y in range(max(row - 1, 0), min(row + 2, bitmap.shape[0])):
                for x in range(max(column - 1, 0), min(column + 2, bitmap.shape[1])):
                    if bitmap[y, x] and labels[y, x] < 0:
                        labels[y, x] = count
                        waiting.append((y, x))
        count += 1
    return labels


@pytest.mark.parametrize("share", [0.05, 0.3, 0.45, 0.7])
def test_parts_are_what_a_flood_fill_finds(share: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        bitmap = generator.random(generator.integers(1, 30, 2)) < share
        parts, expected = label(bitmap), flood(bitmap)
        assert (parts.labels == expected).all()
        for number, (area, box) in enumerate(zip(parts.areas, parts.boxes, strict=True)):
            rows, columns = (expected == number).nonzero()
            assert area == len(rows)
            around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == around
        assert len(parts.areas) == expected.max() + 1


def test_a_spiral_is_one_part() -> None:
    bitmap = np.zeros((41, 41), dtype=bool)
    for inset in range(0, 20, 4):
        bitmap[inset, max(inset - 4, 0) : 41 - inset] = True
        bitmap[inset : 41 - inset, 40 - inset] = True
        bitmap[40 - inset, inset : 41 - inset] = True
        bitmap[inset + 4 : 41 - inset, inset] = True
    assert len(label(bitmap).areas) == 1


def test_an_empty_mask_has_no_parts() -> None:
    parts = label(np.zeros((5, 7), dtype=bool))
    assert (len(parts.areas), parts.boxes.shape) == (0, (0, 4))
    assert (parts.labels == -1).all()
