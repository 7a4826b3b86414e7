"""Ink is found in any light: its polarity, its contrast, and shadows."""

import numpy as np
import pytest

from model.errors import NoInkError
from tests.model.digits.pictures import distance, draw, ink_extent
from tests.samples.draw import preprocess_image


@pytest.mark.parametrize("digit", range(10))
def test_dark_on_light_and_light_on_dark_are_the_same(digit: int) -> None:
    dark = draw(digit)
    assert preprocess_image(255 - dark).tobytes() == preprocess_image(dark).tobytes()


@pytest.mark.parametrize(("ink", "paper"), [(60, 200), (250, 30), (100, 160)])
def test_the_brightness_of_ink_and_paper_does_not_matter(ink: int, paper: int) -> None:
    for digit in range(10):
        faint = preprocess_image(draw(digit, ink=ink, paper=paper))
        # Fewer shades between ink and paper are rounded more coarsely.
        assert distance(faint, preprocess_image(draw(digit))) < 12


def test_a_shadow_across_the_sheet_leaves_no_trace() -> None:
    for digit in range(10):
        picture = np.pad(draw(digit), 40, constant_values=230)
        columns = np.arange(picture.shape[1])
        light = np.where(columns < 40 + 10 * digit, 0.5, 1.0)
        shaded = np.rint(picture * light).astype(np.uint8)
        assert distance(preprocess_image(shaded), preprocess_image(picture)) < 6


def test_a_contrast_of_16_is_ink_and_of_15_is_none() -> None:
    sheet = np.full((50, 50), 200, dtype=np.uint8)
    sheet[20:30, 24:26] = 200 - 16
    assert ink_extent(preprocess_image(sheet)) == (20, 4)
    sheet[20:30, 24:26] = 200 - 15
    with pytest.raises(NoInkError):
        preprocess_image(sheet)
