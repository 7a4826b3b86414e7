"""Strokes of any pen become as wide as MNIST's."""

import numpy as np
import pytest

from model.pixels import stroke_width
from tests.model.digits.pictures import distance, draw
from tests.samples.draw import draw_digit, preprocess_image


@pytest.mark.parametrize("thickness", [0.01, 0.02, 0.04, 0.25])
def test_strokes_are_brought_to_mnists_width(thickness: float) -> None:
    for digit in range(10):
        picture = np.array(draw_digit(digit, size=1000, thickness=thickness))
        width = stroke_width(preprocess_image(picture), 128)
        assert 1.4 < width < 4.5


def test_a_pen_of_one_pixel_on_a_large_sheet_keeps_its_shades() -> None:
    for digit in range(10):
        image = preprocess_image(np.array(draw_digit(digit, size=3000, height=0.8, thickness=5e-4)))
        assert image.max() == 255
        assert (image > 127).sum() > 20
        assert distance(image, preprocess_image(draw(digit, size=400))) < 25
