"""Scores, risk against coverage, and tests of differences, against cases worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from training.metrics import (
    Scores,
    Spread,
    bootstrap_mean,
    calibrated_band,
    calibration_error,
    mcnemar,
    oracle,
    risk_coverage,
    score,
)

# Three classes, four images. Answers: 0, 1, 2, 0; the last is wrong.
PROBS = torch.tensor(
    [
        [0.70, 0.20, 0.10],
        [0.25, 0.50, 0.25],
        [0.10, 0.00, 0.90],
        [0.60, 0.30, 0.10],
    ],
    dtype=torch.float64,
)


LABELS = torch.tensor([0, 1, 2, 1])


REAL = ("nll", "brier", "ece", "ece_mass")


def test_the_error_is_the_share_of_wrong_answers() -> None:
    scores = score(PROBS, LABELS)
    assert (scores.images, scores.errors, scores.error) == (4, 1, 0.25)


def test_the_nll_is_the_mean_of_minus_the_logarithm_of_the_true_class() -> None:
    # True classes have 0.70, 0.50, 0.90 and 0.30.
    expected = -(math.log(0.70) + math.log(0.50) + math.log(0.90) + math.log(0.30)) / 4
    assert score(PROBS, LABELS).nll == pytest.approx(expected, rel=1e-12)


def test_the_nll_of_even_odds_is_ln_10() -> None:
    even = torch.full((5, 10), 0.1)
    assert score(even, torch.arange(5)).nll == pytest.approx(math.log(10), rel=1e-6)


def test_a_true_class_of_probability_0_has_a_large_and_finite_nll() -> None:
    certain = torch.tensor([[1.0, 0.0]])
    # The smallest normal float32 is 2^-126.
    assert score(certain, torch.tensor([1])).nll == pytest.approx(126 * math.log(2), rel=1e-6)


def test_confident_and_right_answers_have_no_calibration_error() -> None:
    assert calibration_error(torch.eye(10), torch.arange(10)) == 0


def test_confident_and_wrong_answers_have_a_calibration_error_of_1() -> None:
    assert calibration_error(torch.eye(10), torch.arange(10).roll(1)) == 1


def test_the_calibration_error_weighs_each_bins_gap_by_its_images() -> None:
    # Five bins: (0, .2], (.2, .4], (.4, .6], (.6, .8], (.8, 1].
    # Confidences 0.70 right | 0.50 right | 0.90 right | 0.60 wrong.
    # Bin 3 holds 0.50 and 0.60: accuracy 1/2, confidence 0.55: gap 0.05, weight 2/4.
    # Bin 4 holds 0.70: accuracy 1, gap 0.30, weight 1/4. Bin 5 holds 0.90: gap 0.10, weight 1/4.
    # ECE = 0.025 + 0.075 + 0.025 = 0.125
    assert calibration_error(PROBS, LABELS, bins=5) == pytest.approx(0.125, abs=1e-12)


def test_opposite_gaps_in_one_bin_cancel() -> None:
    # Two answers of confidence 0.75, one right, one wrong: accuracy 0.5, gap 0.25.
    probs = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
    assert calibration_error(probs, torch.tensor([0, 1])) == pytest.approx(0.25)


def test_opposite_gaps_in_two_bins_do_not_cancel() -> None:
    # Confidence 0.6 and right: gap 0.4. Confidence 0.9 and wrong: gap 0.9. Mean 0.65, not 0.25.
    probs = torch.tensor([[0.6, 0.4], [0.9, 0.1]])
    assert calibration_error(probs, torch.tensor([0, 1])) == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("confidences", "expected"),
    [
        # Bins (0, .5] and (.5, 1]: 0.5 belongs to the lower one. One right at 0.5, one wrong at
        # 0.75: in two bins (0.5 + 0.75) / 2; in one bin it would be |0.5 - 0.625| = 0.125.
        ((0.5, 0.75), 0.625),
        # Both in the upper bin: accuracy 0.5, confidence 0.875.
        ((0.75, 1.0), 0.375),
    ],
)
def test_a_confidence_on_an_edge_belongs_to_the_lower_bin(
    confidences: tuple[float, float], expected: float
) -> None:
    first, second = confidences
    probs = torch.tensor([[first, 1 - first, 0.0], [second, 1 - second, 0.0]])
    # The first is right, the second wrong.
    assert calibration_error(probs, torch.tensor([0, 2]), bins=2) == pytest.approx(expected)


def test_a_score_has_the_calibration_error_of_15_bins() -> None:
    # 0.61 right and 0.66 wrong share the bin (9/15, 10/15], where 14 or 16 bins would part them:
    # |0.39 - 0.66| = 0.27. 0.69 right is alone in the next: 0.31. ECE = (0.27 + 0.31) / 3.
    first = torch.tensor([0.61, 0.66, 0.69], dtype=torch.float64)
    scores = score(torch.stack([first, 1 - first], dim=1), torch.tensor([0, 1, 0]))
    assert scores.ece == pytest.approx(0.58 / 3, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_precisions_score_alike(dtype: torch.dtype) -> None:
    def rounded(probs: Tensor) -> Scores:
        scores = score(probs, LABELS)
        return replace(scores, **{name: round(getattr(scores, name), 6) for name in REAL})

    assert rounded(PROBS.to(dtype)) == rounded(PROBS)


def test_the_brier_score_worked_by_hand() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
    # (0.3^2 + 0.2^2 + 0.1^2) = 0.14 and (0.25^2 + 0.5^2 + 0.75^2) = 0.875
    assert score(probs, np.array([0, 2])).brier == pytest.approx((0.14 + 0.875) / 2)


def test_bins_of_equal_mass_hold_equally_many() -> None:
    # Bins of two: 0.51 and 0.6, both right, gap 0.445 each; 0.9 right and 1.0 wrong: 0.45.
    confidence = np.array([0.9, 0.51, 1.0, 0.6])
    probs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 0, 1, 0])
    found = calibration_error(probs, labels, bins=2, binning="mass")
    assert found == pytest.approx((2 * 0.445 + 2 * 0.45) / 4)


# Risk against coverage


UNCERTAINTY = np.array([0.4, 0.1, 0.3, 0.2])


WRONG = np.array([False, False, True, False])


def test_the_risk_is_the_share_of_errors_among_the_most_certain() -> None:
    # In order of uncertainty: right, right, wrong, right.
    curve = risk_coverage(UNCERTAINTY, WRONG)
    assert curve.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve.aurc == pytest.approx((1 / 3 + 1 / 4) / 4)


def test_the_oracle_turns_errors_away_first() -> None:
    assert oracle(WRONG).risk == pytest.approx([0, 0, 0, 1 / 4])


def test_the_coverage_at_a_risk_is_the_largest_that_keeps_it() -> None:
    curve = risk_coverage(UNCERTAINTY, WRONG)
    assert curve.coverage_at(0) == 0.5
    assert curve.coverage_at(0.25) == 1  # risk may fall again
    assert risk_coverage(np.array([0.1, 0.2]), np.array([True, False])).coverage_at(0.4) == 0


def test_equal_uncertainty_shares_its_errors() -> None:
    curve = risk_coverage(np.array([0.5, 0.5, 0.5, 0.1]), np.array([True, False, False, False]))
    assert curve.risk == pytest.approx([0, 1 / 6, 2 / 9, 1 / 4])
    order = risk_coverage(np.array([0.1, 0.5, 0.5, 0.5]), np.array([False, False, False, True]))
    assert order.risk == pytest.approx(curve.risk)


# Differences


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


# Spread


def test_a_spread_is_mean_lowest_and_highest() -> None:
    spread = Spread.of([0.25, 0.5, 0.15])
    assert spread.mean == pytest.approx(0.3)
    assert (spread.lowest, spread.highest) == (0.15, 0.5)
    assert f"{spread:.3f}" == "0.300 (0.150-0.500)"
    assert f"{spread:.1%}" == "30.0% (15.0-50.0)"
