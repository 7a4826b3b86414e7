"""Outliers: what each kind is made of."""

from dataclasses import replace

import numpy as np
import pytest

from training.data import FASHION_MNIST, MNIST, Images
from training.outliers import (
    KEPT_BACK,
    SHOWN,
    Kind,
    bold,
    enlarged,
    kinds_for,
    make_unfamiliar,
    mirrored,
    overlaid,
    quilted,
    shuffled,
    turned,
)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def uniform_digits() -> Images:
    """Ten images, each of one brightness, which is its class: 10, 20, ... 100."""
    labels = np.arange(10)
    pixels = np.repeat((labels + 1) * 10, 28 * 28).reshape(10, 28, 28)
    return Images(pixels.astype(np.uint8), labels)


def noisy_digits() -> Images:
    pixels = seeded(9).integers(0, 256, size=(50, 28, 28), dtype=np.uint8)
    return Images(pixels, np.arange(50) % 10)


def patches(image: np.ndarray) -> set[bytes]:
    return {image[y : y + 7, x : x + 7].tobytes() for y in range(0, 28, 7) for x in range(0, 28, 7)}


def test_a_shuffled_image_has_the_patches_of_one_digit_in_another_order() -> None:
    digits = noisy_digits()
    sources = {frozenset(patches(image)): image for image in digits.pixels}
    for image in shuffled(digits, 20, seeded()):
        source = sources[frozenset(patches(image))]
        assert not np.array_equal(image, source)


def test_a_quilt_has_four_quarters_each_from_the_same_place_of_a_digit() -> None:
    quilts = quilted(uniform_digits(), 200, seeded())
    corners = quilts[:, [0, 0, 27, 27], [0, 27, 0, 27]]
    whole = np.repeat(np.repeat(corners.reshape(-1, 2, 2), 14, axis=1), 14, axis=2)
    assert np.array_equal(quilts, whole)
    assert len(np.unique(corners[:, 3])) == 10
    assert (corners[:, 0] != corners[:, 3]).any()


def test_overlaid_digits_are_of_two_classes_and_the_brighter_ink_shows() -> None:
    images = overlaid(uniform_digits(), 300, seeded())
    # The darkest class alone could only be seen together with itself.
    assert len(images) == 300
    assert images.min() == 20
    assert images.max() == 100


def test_a_mirrored_digit_is_none_of_those_that_stay_digits() -> None:
    digits = noisy_digits()
    sources = {
        image[:, ::-1].tobytes(): label
        for image, label in zip(digits.pixels, digits.labels, strict=True)
    }
    labels = {int(sources[image.tobytes()]) for image in mirrored(digits, 300, seeded())}
    assert labels == {2, 3, 4, 5, 6, 7, 9}


def test_a_bold_stroke_is_two_pixels_wider() -> None:
    pixels = np.zeros((1, 28, 28), dtype=np.uint8)
    pixels[0, 5:20, 10] = 200
    (image,) = bold(Images(pixels, np.array([4])), 1, seeded())
    expected = np.zeros((28, 28), dtype=np.uint8)
    expected[4:21, 16:19] = 200  # mirrored: column 10 is now 17
    assert np.array_equal(image, expected)


def test_a_turned_digit_lies_on_one_side_or_the_other() -> None:
    pixels = np.zeros((1, 28, 28), dtype=np.uint8)
    pixels[0, 3, 20] = 200  # near the top right corner
    left, right = turned(Images(pixels, np.array([4])), 2, seeded())
    assert np.argwhere(left).tolist() == [[7, 3]]  # the right side is on top
    assert np.argwhere(right).tolist() == [[20, 24]]


def test_no_digit_is_turned_that_looks_like_one_lying() -> None:
    digits = noisy_digits()
    sources = {
        np.rot90(image, side).tobytes(): label
        for image, label in zip(digits.pixels, digits.labels, strict=True)
        for side in (1, -1)
    }
    labels = {int(sources[image.tobytes()]) for image in turned(digits, 300, seeded())}
    assert labels == {2, 3, 4, 5, 6, 7, 9}


def test_an_enlarged_image_is_the_middle_of_two_digits_at_twice_the_size() -> None:
    digits = noisy_digits()
    images = enlarged(digits, 20, seeded(3))
    both = overlaid(digits, 20, seeded(3))
    assert np.array_equal(images[:, ::2, ::2], both[:, 7:21, 7:21])
    assert np.array_equal(images[:, 1::2, 1::2], both[:, 7:21, 7:21])


@pytest.mark.parametrize("kind", SHOWN + KEPT_BACK)
def test_every_kind_gives_as_many_images_as_asked_for_and_changes_no_digit(kind: Kind) -> None:
    digits = noisy_digits()
    before = digits.pixels.copy()
    images = kind(digits, 7, seeded())
    assert images.shape == (7, 28, 28)
    assert images.dtype == np.uint8
    assert np.array_equal(digits.pixels, before)


def test_a_seed_gives_the_same_images_and_another_seed_others() -> None:
    digits = noisy_digits()
    first = make_unfamiliar(digits, 3, 1, SHOWN)
    assert len(first) == 3 * len(SHOWN)
    assert np.array_equal(first, make_unfamiliar(digits, 3, 1, SHOWN))
    assert not np.array_equal(first, make_unfamiliar(digits, 3, 2, SHOWN))


def test_what_is_shown_in_training_does_not_judge_it() -> None:
    assert not set(SHOWN) & set(KEPT_BACK)


def test_clothes_in_a_mirror_are_still_clothes() -> None:
    assert kinds_for(MNIST, KEPT_BACK) == [shuffled, mirrored]
    assert kinds_for(FASHION_MNIST, KEPT_BACK) == [shuffled]
    assert kinds_for(FASHION_MNIST, SHOWN) == [quilted, overlaid, enlarged]
    clothes = replace(noisy_digits(), dataset=FASHION_MNIST)
    assert len(make_unfamiliar(clothes, 4, 0, SHOWN)) == 12
