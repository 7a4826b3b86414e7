"""Images that are no digits: what each kind is made of."""

from dataclasses import replace

import numpy as np
import pytest

from training.data import FASHION_MNIST, MNIST, Images
from training.pseudo_ood import (
    KINDS,
    bold,
    kinds_for,
    make_unfamiliar,
    mirrored,
    overlaid,
    quilted,
    shuffled,
)


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def uniform_digits() -> Images:
    """Ten images, each of one brightness that tells its class: 10, 20, ... 100."""
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


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_as_many_images_as_asked_for_and_changes_no_digit(kind: str) -> None:
    digits = noisy_digits()
    before = digits.pixels.copy()
    images = KINDS[kind](digits, 7, seeded())
    assert images.shape == (7, 28, 28)
    assert images.dtype == np.uint8
    assert np.array_equal(digits.pixels, before)


def test_a_seed_gives_the_same_images_and_another_seed_others() -> None:
    digits = noisy_digits()
    first = make_unfamiliar(digits, 3, 1)
    assert len(first) == 3 * len(KINDS)
    assert np.array_equal(first, make_unfamiliar(digits, 3, 1))
    assert not np.array_equal(first, make_unfamiliar(digits, 3, 2))


def test_clothes_in_a_mirror_are_still_clothes() -> None:
    assert kinds_for(MNIST) == list(KINDS)
    assert kinds_for(FASHION_MNIST) == ["shuffled", "quilted", "overlaid"]
    clothes = replace(noisy_digits(), dataset=FASHION_MNIST)
    assert len(make_unfamiliar(clothes, 4, 0)) == 12
