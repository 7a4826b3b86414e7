"""Small pictures that are in MNIST's form but for noise, lines or dots."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from model.arrays import Pixels
from model.digits.fitting import follows_convention
from model.digits.preprocessing import find_digits
from tests.model.digits.pictures import centre_of_mass, distance, draw
from tests.samples.draw import preprocess_image

Disturb = Callable[[Pixels, np.random.Generator], Pixels]


def _dots(image: Pixels, generator: np.random.Generator) -> Pixels:
    shares = generator.random(image.shape)
    return np.where(shares < 0.06, 255, np.where(shares > 0.94, 0, image)).astype(np.uint8)


def _line(image: Pixels, generator: np.random.Generator) -> Pixels:
    left, right = (int(row) for row in generator.integers(3, 25, 2))
    return np.asarray(cv2.line(image.copy(), (0, left), (27, right), 255, 1, cv2.LINE_AA))


@pytest.mark.parametrize("disturb", [_dots, _line])
def test_a_disturbed_image_of_mnists_form_is_left_as_it_is(disturb: Disturb) -> None:
    generator = np.random.default_rng(0)
    for digit in range(10):
        image = disturb(preprocess_image(draw(digit)), generator)
        assert not follows_convention(image)
        found = find_digits(image)
        assert found.pixels.tobytes() == image.tobytes()
        assert found.boxes == ()
        assert find_digits(~image).pixels.tobytes() == image.tobytes()


@pytest.mark.parametrize("shift", [(2, 0), (-2, 2), (0, -4)])
def test_a_clean_digit_off_the_middle_is_centred(shift: tuple[int, int]) -> None:
    for digit in range(10):
        image = preprocess_image(draw(digit))
        centred = preprocess_image(np.roll(image, shift, (0, 1)))
        assert np.abs(centre_of_mass(centred) - 14).max() <= 0.5
        assert distance(centred, image) < 12


@pytest.mark.parametrize("row", [1, 24])
def test_a_jagged_line_at_an_end_of_a_digit_is_left_with_it(row: int) -> None:
    points = np.array([(x, row + x // 3 % 2 * 3) for x in range(4, 25, 3)])
    for digit in range(10):
        image = preprocess_image(draw(digit))
        cv2.polylines(image, [points], False, 255)
        cv2.line(image, (14, 14), (14, row), 255, 2)  # the digit and the line are one part
        assert find_digits(image).pixels.tobytes() == image.tobytes()


def test_two_lines_that_meet_in_a_corner_are_cut_out() -> None:
    """Half of the windows in which the digit would be are empty."""
    image = np.zeros((28, 28), np.uint8)
    image[24:26, 2:26] = image[2:26, 24:26] = 255
    assert find_digits(image).pixels.tobytes() != image.tobytes()


def test_an_image_with_marks_in_its_corners_alone_is_cut_out() -> None:
    """Not in MNIST's form: a small digit, and more ink in the margin than in the middle."""
    image = np.zeros((28, 28), np.uint8)
    image[10:19, 13:15] = 255
    image[:4, :4] = image[-4:, -4:] = 255
    assert find_digits(image).pixels.tobytes() != image.tobytes()
