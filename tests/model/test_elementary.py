"""exp and log against the platform's, and their bits against the written order."""

import math

import numpy as np
import pytest

from model.elementary import exp, log
from tests.model.engines import reference

GENERATOR = np.random.default_rng(0)
EXPONENTS = [0.0, -1e-300, -5e-324, -0.34657, -0.34658, -87.3, -103.9, -699.9]
EXPONENTS += (-GENERATOR.exponential(30, 2000)).tolist()
NUMBERS = [
    1.0,
    1 + 2**-52,
    1 - 2**-53,
    2.0**-149,
    1.4142135623730951,
    0.7071067811865476,
    2.0,
    1e300,
]
NUMBERS += np.exp(GENERATOR.normal(0, 30, 2000)).tolist() + GENERATOR.random(2000).tolist()


def test_exp_is_within_two_units_in_the_last_place() -> None:
    for x in EXPONENTS:
        assert exp(x) == pytest.approx(math.exp(x), rel=2 * 2**-52, abs=0)


def test_log_is_within_two_units_in_the_last_place() -> None:
    for x in NUMBERS:
        assert log(x) == pytest.approx(math.log(x), rel=2 * 2**-52, abs=0)


def test_what_is_exact_is_exact() -> None:
    assert (exp(0.0), log(1.0)) == (1, 0)
    assert exp(-1e9) == exp(-700.0) < 1e-303


def test_both_have_the_bits_of_the_written_order() -> None:
    assert [exp(x) for x in EXPONENTS] == reference.exp(np.array(EXPONENTS)).tolist()
    assert [log(x) for x in NUMBERS] == reference.log(np.array(NUMBERS)).tolist()
