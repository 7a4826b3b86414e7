"""Which parts of the ink belong to one digit, and which are digits of their own."""

import numpy as np
import pytest

from model.digits.preprocessing import find_digits
from tests.model.digits.pictures import distance, draw, ink_extent, row_of
from tests.samples.draw import draw_strokes, preprocess_image


def test_a_speck_of_dust_far_away_changes_nothing() -> None:
    for digit in range(10):
        picture = np.pad(draw(digit), 60, constant_values=255)
        dusty = picture.copy()
        dusty[4:7, 5:8] = 0
        assert distance(preprocess_image(dusty), preprocess_image(picture)) < 1


def test_a_detached_bar_belongs_to_its_five() -> None:
    picture = np.full((200, 160), 255, dtype=np.uint8)
    five = draw(5, size=160)
    picture[:160] = five
    bare = preprocess_image(picture)
    rows = np.flatnonzero((five < 128).any(axis=1))
    # A gap below the bar: the rest moves down.
    cut = rows[0] + 20
    picture[cut + 10 : 170] = five[cut:160]
    picture[cut : cut + 10] = 255
    assert ink_extent(preprocess_image(picture))[0] == 20
    assert distance(preprocess_image(picture), bare) < 30


@pytest.mark.parametrize("digits", [(1, 2), (4, 2), (7, 1), (1, 1), (3, 5, 8), (2, 0, 2, 6)])
def test_digits_side_by_side_are_found_with_their_boxes(digits: tuple[int, ...]) -> None:
    sheet = row_of(*digits)
    found = find_digits(sheet)
    assert len(found.boxes) == len(digits)
    for left, top, right, bottom in found.boxes:
        # A box holds its digit: the paper just outside is white, and inside is ink to its edges, to
        # within the squares of pixels to which a picture of this size is reduced.
        squares = -(-max(sheet.shape) // 128)
        assert (sheet[top:bottom, [left - 1 - squares, right + squares]] > 200).all()
        assert (sheet[top:bottom, left : left + squares] < 200).any()
        assert (sheet[top : top + squares, left:right] < 200).any()
    assert list(found.boxes) == sorted(found.boxes)


@pytest.mark.parametrize("gap", [0.03, 0.06])
def test_a_four_whose_strokes_do_not_quite_touch_is_one_digit(gap: float) -> None:
    hook = ((0.1, 0.0), (0.1, 0.0), (0.0, 0.6), (0.0, 0.6), (0.4, 0.6))
    stem = ((0.5 + gap, 0.1), (0.5 + gap, 1.0))
    picture = np.array(draw_strokes((hook, stem), thickness=0.1, slant=0))

    assert find_digits(picture).boxes == ()
    # Further apart they are two.
    apart = ((0.65, 0.1), (0.65, 1.0))
    assert len(find_digits(np.array(draw_strokes((hook, apart), slant=0))).boxes) == 2
