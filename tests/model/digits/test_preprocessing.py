"""Any picture of a digit becomes what MNIST would have made of it."""

import numpy as np
import pytest

from model.arrays import Pixels
from model.digits.fitting import follows_convention
from model.digits.preprocessing import find_digits
from tests.model.digits.pictures import bar, centre_of_mass, distance, draw, draw_varied, ink_extent
from tests.samples.draw import preprocess_image

MIDDLE = 14  # the centre of mass, in pixel numbers, that MNIST's images have


@pytest.mark.parametrize("digit", range(10))
def test_an_image_in_the_convention_passes_unchanged(digit: int) -> None:
    for seed in range(10):
        image = preprocess_image(draw(digit, seed=seed))
        assert follows_convention(image)
        before = image.copy()
        assert preprocess_image(image).tobytes() == before.tobytes()
        assert image.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("image", "follows"),
    [
        # The middle of n pixels from k on is k + (n - 1) / 2: 13.5 and 14.
        (bar(20, 5, 4, 12), True),
        (bar(5, 20, 12, 4), True),
        (bar(19, 5, 5, 12), True),
        (bar(18, 5, 5, 12), False),
        (bar(21, 5, 4, 12), False),
        (bar(20, 5, 5, 12), False),  # its middle is at 14.5, the first that is outside
        (bar(20, 5, 3, 12), False),  # 12.5
        (bar(20, 5, 4, 11), False),  # 13
        (bar(20, 4, 4, 13), False),  # 14.5
        (bar(20, 4, 4, 12), True),  # 13.5
        (bar(20, 5, 4, 12, side=29), False),
        (bar(20, 5, 4, 12)[:, :27], False),
        (np.zeros((28, 28), dtype=np.uint8), False),
        (255 - bar(20, 5, 4, 12), False),
    ],
)
def test_the_convention_is_a_box_of_19_or_20_pixels_around_the_middle(
    image: Pixels, follows: bool
) -> None:
    assert follows_convention(image) is follows


def test_every_picture_becomes_28x28_with_a_box_of_20_around_the_centre_of_mass() -> None:
    for picture in draw_varied():
        image = preprocess_image(picture)
        assert image.shape == (28, 28)
        assert image.dtype == np.uint8
        assert image.max() == 255
        height, width = ink_extent(image)
        assert max(height, width) == 20
        assert np.abs(centre_of_mass(image) - MIDDLE).max() <= 0.5
        # So that an `input` that came back is understood when it is sent again.
        assert follows_convention(image)


def test_a_centre_of_mass_that_would_push_ink_out_goes_as_far_as_it_can() -> None:
    """A heavy foot under a long thin stroke: centred on its mass, the stroke would stick out."""
    picture = np.zeros((60, 60), dtype=np.uint8)
    picture[10:50, 29:31] = 255
    picture[38:50, 20:40] = 255
    image = preprocess_image(picture)
    assert ink_extent(image)[0] == 20
    assert image[0].any()
    assert centre_of_mass(image)[0] > MIDDLE + 0.5


@pytest.mark.parametrize("shift", [(0, 20), (-20, 0), (15, -9)])
def test_the_position_on_the_sheet_does_not_matter(shift: tuple[int, int]) -> None:
    for digit in range(10):
        picture = draw(digit)
        moved = np.roll(picture, shift, (0, 1))
        # The squares of pixels that are averaged lie elsewhere, and a width may be rounded another
        # way: at most 9.8 of 255 were measured.
        assert distance(preprocess_image(moved), preprocess_image(picture)) < 12


def test_the_margins_do_not_matter() -> None:
    for digit in range(10):
        picture = draw(digit)
        wider = np.pad(picture, ((10, 300), (120, 0)), constant_values=255)
        assert distance(preprocess_image(wider), preprocess_image(picture)) < 12


def test_the_picture_given_is_not_changed() -> None:
    picture = draw(3)
    picture.flags.writeable = False
    before = picture.tobytes()
    preprocess_image(picture)
    assert picture.tobytes() == before


@pytest.mark.parametrize("digit", range(10))
def test_an_inverted_image_of_the_convention_gives_exactly_that_image(digit: int) -> None:
    image = preprocess_image(draw(digit))
    assert preprocess_image(255 - image).tobytes() == image.tobytes()


def test_a_centre_of_mass_between_two_pixels_is_always_moved_the_same_way() -> None:
    even = preprocess_image(bar(40, 8, 11, 40, side=100))
    odd = preprocess_image(bar(40, 8, 12, 41, side=100))
    assert even.tobytes() == odd.tobytes()
    assert centre_of_mass(even) == pytest.approx([13.5, 13.5])


def test_boxes_are_in_pixels_of_the_original_picture() -> None:
    picture = np.hstack([draw(1, size=100), draw(2, size=100)])
    boxes = find_digits(picture).boxes
    assert len(boxes) == 2
    assert find_digits(picture, scale=8).boxes == tuple(
        tuple(8 * side for side in box) for box in boxes
    )
