"""Which pictures hold digits, how many, and where; and which hold none."""

import numpy as np
import pytest
from PIL import Image

from model.arrays import Pixels
from model.digits.preprocessing import find_digits
from model.errors import NoInkError
from tests.model.digits.pictures import distance, draw, draw_varied, row_of
from tests.samples.draw import preprocess_image


def test_a_small_digit_is_read_from_the_whole_resolution() -> None:
    sheet = np.full((3000, 2600), 240, dtype=np.uint8)
    sheet[2000:2140, 300:440] = np.minimum(draw(6), 240)
    assert distance(preprocess_image(sheet), preprocess_image(draw(6))) < 12


def test_boxes_are_in_pixels_of_the_picture_however_large() -> None:
    sheet = row_of(4, 7)
    large = np.array(Image.fromarray(sheet).resize((sheet.shape[1] * 12, sheet.shape[0] * 12)))
    small, found = find_digits(sheet).boxes, find_digits(large).boxes
    assert np.abs(np.array(found) - 12 * np.array(small)).max() < 24


def test_one_digit_is_not_several() -> None:
    assert all(find_digits(picture).boxes == () for picture in draw_varied())


@pytest.mark.parametrize("contrast", [20, 30, 45])
def test_a_shade_that_fades_is_no_stroke(contrast: int) -> None:
    across = np.cos(np.linspace(-np.pi, np.pi, 60))
    sheet = np.tile(170 - contrast * (1 + across) / 2, (300, 1))
    noise = np.random.default_rng(0).normal(0, 1, sheet.shape)

    with pytest.raises(NoInkError):
        preprocess_image((sheet + noise).astype(np.uint8))


@pytest.mark.parametrize("value", [0, 1, 128, 255])
@pytest.mark.parametrize("shape", [(28, 28), (100, 60), (1, 1)])
def test_a_uniform_image_has_no_ink(value: int, shape: tuple[int, int]) -> None:
    with pytest.raises(NoInkError, match="no ink"):
        preprocess_image(np.full(shape, value, dtype=np.uint8))


@pytest.mark.parametrize("level", [7, 128, 248])
def test_noise_of_low_contrast_has_no_ink(level: int) -> None:
    generator = np.random.default_rng(0)
    for shape in ((28, 28), (200, 150)):
        # At most 14 between the darkest and the lightest.
        noise = (level + generator.integers(-7, 8, shape)).astype(np.uint8)
        with pytest.raises(NoInkError):
            preprocess_image(noise)


EXTREME_SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 1000), (1000, 1), (3, 2000), (2000, 3)]


@pytest.mark.parametrize("shape", EXTREME_SHAPES)
def test_extreme_shapes_are_answered_or_have_no_ink(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    for share in (0.0, 0.001, 0.1, 0.5, 0.9, 1.0):
        picture = np.where(generator.random(shape) < share, 0, 255).astype(np.uint8)
        check_answered_or_refused(picture)
    check_answered_or_refused(generator.integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("side", [30, 290, 1000, 3000])
def test_specks_too_small_to_be_seen_are_answered_or_have_no_ink(side: int) -> None:
    """Scaled to 20 pixels, two specks far apart fade to less than one grey level."""
    picture = np.full((side + 20, side + 20), 255, dtype=np.uint8)
    picture[10, 10] = picture[-10, -10] = 0
    check_answered_or_refused(picture)


def check_answered_or_refused(picture: Pixels) -> None:
    try:
        image = preprocess_image(picture)
    except NoInkError:
        return
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    assert image.any()
