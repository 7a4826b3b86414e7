"""Printed lines are erased, and bars of digits are kept."""

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
