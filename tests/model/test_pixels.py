"""Each measure against OpenCV and NumPy, which need several operations for it."""

import math
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from model import pixels
from model.arrays import Array, Pixels
from model.digits.paper import measure_darkness
from tests.model.digits.pictures import draw_varied

_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


def pictures(seed: int) -> Iterator[Pixels]:
    """Blots of many sizes on paper with grain or without, also a single pixel or row; (H, W)."""
    generator = np.random.default_rng(seed)
    for number in range(300):
        shape = generator.integers(1, 4 if number % 10 == 0 else 60, 2)
        blots = generator.random(shape)
        if number % 3:
            blots = cv2.GaussianBlur(blots, (0, 0), generator.uniform(0.3, 4))
        ink = generator.uniform(1, 255) * (blots > generator.uniform(0.4, 0.7))
        grain = generator.normal(0, generator.choice([0, 1, 20]), shape)
        yield np.clip(ink + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.995])
def test_quantiles(share: float) -> None:
    for picture in pictures(1):
        rank = int(share * picture.size)
        assert pixels.quantile(picture, share) == np.sort(picture, axis=None)[rank]


def test_the_typical_mark_is_the_median_of_otsus_larger_class() -> None:
    for picture in pictures(2):
        marks = picture[picture > 0]
        if not marks.size:
            assert pixels.typical_mark(picture) == 0
            continue
        threshold = cv2.threshold(marks, 0, 0, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
        dark = np.sort(marks[marks > threshold] if (marks > threshold).any() else marks)
        assert pixels.typical_mark(picture) == dark[len(dark) // 2]


def test_even_paper_has_most_of_the_picture_and_of_its_edges() -> None:
    found = 0
    for picture in pictures(3):
        edges = np.concatenate((picture[0], picture[-1], picture[:, 0], picture[:, -1]))
        value = np.bincount(picture.ravel()).argmax()
        is_even = (picture == value).mean() >= 0.6 and (edges == value).mean() >= 0.7
        paper, is_darker = pixels.even_paper(picture, 0.6, 0.7)
        assert paper == (value if is_even else -1)
        if is_even:
            assert is_darker == (picture.mean() < value)
        found += is_even
    assert 20 < found < 280


def test_ends_are_on_both_of_opposite_edges() -> None:
    found = 0
    for picture in pictures(7):
        rows, columns = ((each[[0, -1]] > 0).sum(axis=1) for each in (picture, picture.T))
        assert pixels.count_ends(picture) == rows.min() + columns.min()
        found += pixels.count_ends(picture) > 0
    assert 20 < found < 280


def test_connected_parts() -> None:
    for picture in pictures(4):
        numbers, table = pixels.connected_parts(picture)

        height, width = picture.shape
        count, labels, boxes, _ = cv2.connectedComponentsWithStats(picture, connectivity=8)
        assert len(table) == count - 1
        assert len(np.unique(numbers + count * labels)) == len(np.unique(numbers))
        left, top, wide, high, area = boxes[1:].T
        expected = np.stack([left, top, left + wide, top + high, area], axis=1)
        assert sorted(table[:, :5].tolist()) == sorted(expected.tolist())
        for number, row in enumerate(table.tolist(), 1):
            y, x = np.nonzero(numbers == number)
            assert row[:2] == [x.min(), y.min()]
            assert row[5] == np.sum((x == 0, y == 0, x == width - 1, y == height - 1))


@pytest.mark.parametrize("least", [1, 128])
def test_the_width_of_strokes(least: int) -> None:
    for whole in pictures(5):
        picture = whole[1:, : max(1, whole.shape[1] - 2)]
        if not picture.size:
            continue
        ink = (picture >= least).astype(np.uint8)
        outlines = cv2.findContours(ink, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
        length = sum(cv2.arcLength(outline, True) for outline in outlines)
        width = 2 * np.count_nonzero(ink) / max(length, 1)
        assert pixels.stroke_width(picture, least) == pytest.approx(width, rel=1e-6)


def test_the_extent_of_what_is_light() -> None:
    for picture in pictures(6):
        left, top, right, bottom = pixels.extent(picture)
        y, x = np.nonzero(picture > picture.max() // 2)
        if not len(x):
            assert (right - left, bottom - top) == (0, 0)
        else:
            assert (left, top, right, bottom) == (x.min(), y.min(), x.max() + 1, y.max() + 1)


@pytest.mark.parametrize("reach", [1, 3, 8])
def test_the_share_of_an_outline_that_is_sharp(reach: int) -> None:
    shares = []
    for number, picture in enumerate(draw_varied()):
        grey = cv2.GaussianBlur(picture, (0, 0), 0.5 + number % 5)
        grey = ~grey if np.median(grey) < 128 else grey
        # Shaded paper, also in part of a picture: ink along its edges.
        grey = (grey * np.linspace(0.3, 1, grey.shape[1])).astype(np.uint8)[number % 40 :, 5:]
        darkness = measure_darkness(grey, 10, 0, max(1, max(grey.shape) // 4))
        mask = cv2.threshold(darkness, 80, 1, cv2.THRESH_BINARY)[1]
        if mask.all() or not mask.any():
            continue
        y, x = np.nonzero(mask)
        box = int(x.min()), int(y.min()), int(x.max() + 1), int(y.max() + 1)
        shares.append(pixels.sharp_share(grey, darkness, mask, box, reach, 9, 0))

        assert shares[-1] == pytest.approx(_sharp_share(grey, darkness, mask, reach))
        faint = int(darkness[mask > 0].sum(dtype=np.int64)) + 0.5
        found = pixels.sharp_share(grey, darkness, mask, box, 9, reach, faint)
        assert found == shares[-1]
        assert pixels.sharp_share(grey, darkness, mask, box, reach, 9, faint - 1) == shares[-1]
    assert min(shares) < 0.5 < max(shares)


def _sharp_share(grey: Pixels, darkness: Pixels, mask: Pixels, reach: int) -> Array:
    sheet = cv2.divide(grey, ~darkness, scale=255)
    half = cv2.addWeighted(sheet, 0.5, grey, 0.5, 0)
    is_sharp = cv2.dilate(grey, None, iterations=reach) >= half
    share: Array = is_sharp[mask > cv2.erode(mask, _CROSS)].mean()
    return share


def test_a_picture_of_one_part_has_no_edge_that_could_be_sharp() -> None:
    ink = np.ones((9, 7), np.uint8)
    assert math.isnan(pixels.sharp_share(ink, ink, ink, (0, 0, 7, 9), 1, 1, 0))


@pytest.mark.parametrize("turns", range(4))
def test_parts_that_meet_late_are_one(turns: int) -> None:
    spiral = np.zeros((41, 41), np.uint8)
    for k in range(0, 20, 2):
        spiral[k, max(0, k - 2) : 41 - k] = spiral[k : 41 - k, 40 - k] = 1
        spiral[40 - k, k : 41 - k] = spiral[k + 2 : 41 - k, k] = 1
    comb = np.zeros((41, 41), np.uint8)
    comb[:, ::2] = comb[-1] = 1
    stairs = np.zeros((41, 41), np.uint8)
    stairs[:, ::2] = 1
    for k in range(1, 40, 2):
        stairs[k, 40 - k - 1 : 40 - k + 2] = 1
    for picture in (spiral, comb, stairs):
        turned = np.rot90(picture, turns)
        numbers, table = pixels.connected_parts(turned)
        assert np.array_equal(numbers, turned)
        assert table.tolist() == [[0, 0, 41, 41, turned.sum(), table[0, 5]]]
