"""Renderings of known digits are read as those digits; pictures without one are not."""

import numpy as np
import pytest

from tests.samples import no_digits
from tests.samples.renderings import KINDS
from tests.samples.score_preprocessing import Reader, numbers, renderings
from training.data import Images


@pytest.mark.parametrize("kind", KINDS)
def test_most_renderings_of_each_kind_are_read_as_their_digit(
    kind: str, reader: Reader, images: Images
) -> None:
    read = [(reader.read(file), label) for file, label in renderings(images, kind, 12)]
    assert sum(digit == label for digit, label in read) >= 11


def test_numbers_are_seen_as_several_digits(reader: Reader, images: Images) -> None:
    assert sum(reader.read(file) == "several" for file in numbers(images, 20)) >= 19


@pytest.mark.parametrize(
    ("kind", "least"), [("no ink", 10), ("all ink", 10), ("noise", 9), ("page of text", 9)]
)
def test_most_pictures_without_a_digit_are_refused(kind: str, least: int, reader: Reader) -> None:
    generator = np.random.default_rng(0)
    outcomes = [reader.read(no_digits.KINDS[kind](generator)) for _ in range(10)]
    assert sum(outcome in ("no ink", "several") for outcome in outcomes) >= least
