"""What the tests of pictures share: a reader that answers as the server does, and digits."""

from pathlib import Path

import pytest

from model.checkpoint import DEFAULT_CHECKPOINT
from tests.samples.score_preprocessing import Reader
from training.data import Images, load_images


@pytest.fixture(scope="session")
def reader(one_thread: None) -> Reader:
    return Reader(DEFAULT_CHECKPOINT)


@pytest.fixture(scope="session")
def images(mnist_folder: Path) -> Images:
    """What nothing was trained on; the test set is left for published figures."""
    return load_images("train", mnist_folder)[slice(-5000, None)]
