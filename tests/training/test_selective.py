"""Risk against coverage, worked by hand."""

import numpy as np
import pytest

from training.selective import oracle, risk_coverage

DOUBT = np.array([0.4, 0.1, 0.3, 0.2])
WRONG = np.array([False, False, True, False])


def test_the_risk_is_the_share_of_errors_among_the_least_doubtful() -> None:
    # In order of doubt: right, right, wrong, right.
    curve = risk_coverage(DOUBT, WRONG)
    assert curve.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve.aurc == pytest.approx((1 / 3 + 1 / 4) / 4)


def test_the_oracle_turns_errors_away_first() -> None:
    assert oracle(WRONG).risk == pytest.approx([0, 0, 0, 1 / 4])


def test_the_coverage_at_a_risk_is_the_largest_that_keeps_it() -> None:
    curve = risk_coverage(DOUBT, WRONG)
    assert curve.coverage_at(0) == 0.5
    assert curve.coverage_at(0.25) == 1  # risk may fall again
    assert risk_coverage(np.array([0.1, 0.2]), np.array([True, False])).coverage_at(0.4) == 0


def test_equal_doubt_shares_its_errors() -> None:
    curve = risk_coverage(np.array([0.5, 0.5, 0.5, 0.1]), np.array([True, False, False, False]))
    assert curve.risk == pytest.approx([0, 1 / 6, 2 / 9, 1 / 4])
    order = risk_coverage(np.array([0.1, 0.5, 0.5, 0.5]), np.array([False, False, False, True]))
    assert order.risk == pytest.approx(curve.risk)
