"""Printed lines and underlines are erased, and bars of digits are kept."""

import itertools

import numpy as np
import pytest

from tests.model.digits.pictures import distance, draw, ink_extent
from tests.samples.draw import preprocess_image


@pytest.mark.parametrize("both", [False, True])
def test_printed_lines_are_left_out(both: bool) -> None:
    for digit in range(10):
        picture = np.pad(draw(digit, size=220), 40, constant_values=255)
        lined = picture.copy()
        for row in range(13, lined.shape[0], 37):
            lined[row : row + 2] = np.minimum(lined[row : row + 2], 150)
            if both:
                lined[:, row : row + 2] = np.minimum(lined[:, row : row + 2], 150)
        assert distance(preprocess_image(lined), preprocess_image(picture)) < 10


def test_the_bar_of_a_digit_that_fills_the_picture_is_no_line() -> None:
    picture = np.full((100, 80), 255, dtype=np.uint8)
    picture[:3] = 0
    picture[:, 60:63] = 0
    image = preprocess_image(picture)
    assert ink_extent(image) == (20, 16)


@pytest.mark.parametrize("above", [False, True])
def test_a_line_that_the_digit_touches_is_left_out(above: bool) -> None:
    for digit in range(10):
        picture = np.pad(draw(digit, size=120), 60, constant_values=255)
        rows, columns = (np.flatnonzero((picture < 128).any(axis=axis)) for axis in (1, 0))
        row = rows[0] - 4 if above else rows[-1]
        lined = picture.copy()
        # Ends well beyond the digit, and askew by two pixels.
        for left, right in itertools.pairwise(np.linspace(columns[0] - 35, columns[-1] + 35, 4)):
            lined[row : row + 6, int(left) : int(right)] = 0
            row += 1
        assert distance(preprocess_image(lined), preprocess_image(picture)) < 16
