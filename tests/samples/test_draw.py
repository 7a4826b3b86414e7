import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.network import MLP, normalise
from tests.model.engines.torch_reference import forward
from tests.samples.draw import FOLDER, committed_samples, draw_digit, preprocess_image


@pytest.fixture(scope="module")
def network() -> MLP:
    return load_checkpoint(DEFAULT_CHECKPOINT).network


def probabilities(network: MLP, picture: Image.Image) -> list[float]:
    pixels = preprocess_image(np.array(picture.convert("L")))
    logits = forward(network, normalise(pixels, network.config))
    probs: list[float] = logits.softmax(dim=1)[0].tolist()
    return probs


@pytest.mark.parametrize("name", committed_samples())
def test_the_committed_pictures_are_what_the_code_draws(name: str) -> None:
    with Image.open(FOLDER / name) as committed:
        drawn = committed_samples()[name]
        assert (committed.mode, committed.size) == (drawn.mode, drawn.size)
        # A platform may round a grey the other way.
        difference = np.asarray(committed).astype(int) - np.asarray(drawn)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("digit", range(10))
def test_a_clear_digit_is_recognised_and_accepted(network: MLP, digit: int) -> None:
    probs = probabilities(network, committed_samples()[f"{digit}.png"])

    assert np.argmax(probs) == digit
    assert probs[digit] > 0.99


def test_the_doubtful_picture_is_a_four_or_a_nine(network: MLP) -> None:
    probs = probabilities(network, committed_samples()["doubtful.png"])

    assert set(np.argsort(probs)[-2:].tolist()) == {4, 9}
    assert max(probs) < 0.9


def test_a_star_convinces_nobody(network: MLP) -> None:
    assert max(probabilities(network, committed_samples()["not_a_digit.png"])) < 0.9


@pytest.mark.parametrize(
    ("size", "thickness", "slant"), [(28, 0.1, 0.0), (64, 0.16, 0.3), (400, 0.06, -0.2)]
)
def test_digits_are_recognised_however_they_are_drawn(
    network: MLP, size: int, thickness: float, slant: float
) -> None:
    for digit in range(10):
        for seed in range(3):
            picture = draw_digit(
                digit, size=size, thickness=thickness, slant=slant, jitter=0.02, seed=seed
            )
            assert np.argmax(probabilities(network, picture)) == digit, (digit, seed)


def test_a_seed_repeats_its_drawing() -> None:
    first, again, other = (np.asarray(draw_digit(5, jitter=0.02, seed=seed)) for seed in (1, 1, 2))

    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_colours_are_those_asked_for() -> None:
    grey = draw_digit(1, ink=250, paper=5)
    blue = draw_digit(1, ink=(20, 40, 200), paper=(250, 245, 230))

    assert (grey.mode, grey.getextrema()) == ("L", (5, 250))
    assert (blue.mode, blue.getextrema()) == ("RGB", ((20, 250), (40, 245), (200, 230)))


def test_the_digit_lies_in_the_middle_of_the_sheet() -> None:
    for digit in range(10):
        drawn: NDArray[np.uint8] = np.asarray(draw_digit(digit, size=200))
        rows = np.flatnonzero((drawn < 128).any(axis=1))
        columns = np.flatnonzero((drawn < 128).any(axis=0))

        assert abs(rows[0] + rows[-1] - 199) <= 2
        assert abs(columns[0] + columns[-1] - 199) <= 2
        # The strokes, and half a pen above and below.
        assert 0.62 <= len(rows) / 200 <= 0.72
