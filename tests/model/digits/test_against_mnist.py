"""Pictures of digits as the trained network reads them, and MNIST's own images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.checkpoint import Checkpoint
from model.digits.fitting import follows_convention
from model.digits.preprocessing import find_digits
from model.network import normalise
from tests.model.digits.pictures import distance, draw, row_of
from tests.model.engines.torch_reference import forward
from tests.samples.draw import preprocess_image
from training.data import load_images


def test_all_10000_test_images_of_mnist_pass_unchanged(mnist_folder: Path) -> None:
    images = load_images("test", mnist_folder).pixels
    assert len(images) == 10_000
    assert all(follows_convention(image) for image in images)
    assert all(preprocess_image(image).tobytes() == image.tobytes() for image in images)


@pytest.mark.parametrize("size", [28, 40, 60, 100, 250, 1000])
def test_the_size_of_the_picture_hardly_matters(size: int, default_checkpoint: Checkpoint) -> None:
    network = default_checkpoint.network
    for digit in range(10):
        image = preprocess_image(draw(digit, size=size))
        # Up to 11.9 of 255 were measured, since rounding makes strokes a pixel wider or narrower.
        # The nearest two digits are 14.0 apart.
        assert distance(image, preprocess_image(draw(digit))) < 13
        assert int(forward(network, normalise(image, network.config)).argmax()) == digit


def test_mnists_digits_enlarged_are_not_several(mnist_folder: Path) -> None:
    images = load_images("train", mnist_folder)[slice(-200, None)].pixels
    for image in images:
        large = Image.fromarray(image).resize((140, 140), Image.Resampling.BICUBIC)
        assert find_digits(~np.array(large)).boxes == ()


def test_the_digit_that_is_read_is_one_of_them(default_checkpoint: Checkpoint) -> None:
    network = default_checkpoint.network
    x = normalise(find_digits(row_of(8, 3)).pixels, network.config)
    assert int(forward(network, x).argmax()) in (8, 3)
