"""One distribution in plain Python says the same as many in NumPy."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from model.uncertainty import statistics
from model.uncertainty.calibration import apply_temperature
from model.uncertainty.distribution import shannon_entropy, soften, softmax

GENERATOR = np.random.default_rng(0)
ROWS = [GENERATOR.normal(0, spread, classes) for spread in (0, 1, 9, 300) for classes in (2, 10)]


def reference_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())


@pytest.mark.parametrize("logits", ROWS, ids=range(len(ROWS)))
def test_softmax_entropy_and_temperature_agree_with_those_of_many(
    logits: NDArray[np.float64],
) -> None:
    probs = softmax(logits.tolist())

    assert probs == pytest.approx(reference_softmax(logits), rel=1e-12, abs=0)
    assert shannon_entropy(probs) == pytest.approx(
        float(statistics.entropy(np.array(probs))), abs=1e-12
    )
    for temperature in (0.25, 0.7, 1.3, 4.0):
        expected = apply_temperature(np.array(probs), temperature)
        assert soften(probs, temperature) == pytest.approx(expected, rel=1e-9, abs=1e-70)


def test_logits_of_any_size_give_probabilities() -> None:
    assert softmax([1e4, -1e4]) == [1, 0]
    assert softmax([-1e4, -1e4]) == [0.5, 0.5]


def test_entropy_lies_between_certainty_and_a_pure_guess() -> None:
    assert shannon_entropy([0.0, 1.0, 0.0]) == 0
    assert shannon_entropy([0.1] * 10) == pytest.approx(math.log(10))


def test_temperature_1_changes_no_bit_and_a_small_one_leaves_the_likeliest() -> None:
    probs = softmax([0.3, 2.0, -1.0])

    assert soften(probs, 1.0) == probs
    # Each power alone would be 0.
    assert soften([0.4, 0.35, 0.25], 1e-4) == [1, 0, 0]
