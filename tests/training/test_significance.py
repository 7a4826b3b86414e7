"""Tests of differences, against tables and closed forms."""

import math

import numpy as np
import pytest

from training.significance import bootstrap_mean, calibrated_band, mcnemar


def test_mcnemar_counts_what_only_one_gets_wrong() -> None:
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, False, False])
    found = mcnemar(first, second)
    # Two against one: P(at least 2 of 3, either way) = 1.
    assert (found.only_first_wrong, found.only_second_wrong, found.p_value) == (2, 1, 1.0)


def test_mcnemar_of_ten_against_none() -> None:
    found = mcnemar(np.ones(10, dtype=bool), np.zeros(10, dtype=bool))
    assert found.p_value == pytest.approx(2 / 2**10)


def test_mcnemar_of_equal_answers_finds_nothing() -> None:
    assert mcnemar(np.ones(5, dtype=bool), np.ones(5, dtype=bool)).p_value == 1


def test_the_bootstrap_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(1).normal(3, 2, 2000)
    low, high = bootstrap_mean(values, resamplings=2000)
    error = values.std(ddof=1) / math.sqrt(2000)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(0, 1, 50)
    assert bootstrap_mean(values, resamplings=300) == bootstrap_mean(values, resamplings=300)
    assert bootstrap_mean(values, resamplings=300, seed=1) != bootstrap_mean(
        values, resamplings=300
    )


def test_certain_answers_that_are_always_right_have_no_band() -> None:
    assert calibrated_band(np.ones(100), "width", draws=20) == (0, 0)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_the_band_of_one_bin_is_that_of_a_binomial(binning: str) -> None:
    # 400 answers of confidence 0.8: the gap is |k / 400 - 0.8|, whose 95th percentile is
    # 1.96 standard errors of sqrt(0.8 * 0.2 / 400) = 0.02 each, and the 5th 0.063 of them.
    low, high = calibrated_band(np.full(400, 0.8), binning, draws=4000, bins=1)  # type: ignore[arg-type]
    assert high == pytest.approx(1.96 * 0.02, rel=0.08)
    assert low < 0.2 * 0.02
