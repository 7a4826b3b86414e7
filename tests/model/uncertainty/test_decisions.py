"""When an answer is accepted, and what is said where it is not."""

import numpy as np
import pytest

from model.uncertainty.decisions import Decision, decide

CLEAR = np.array([0.97, 0.01, 0.01, 0.01])
TORN = np.array([0.1, 0.45, 0.05, 0.4])
SCATTERED = np.array([0.3, 0.3, 0.2, 0.2])


def test_nothing_is_decided_without_a_threshold() -> None:
    assert decide(CLEAR, 0.1, None) is None
    assert decide(CLEAR, 0.1, None, several_digits=True) is None


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5])
def test_up_to_the_threshold_an_answer_is_accepted(score: float) -> None:
    assert decide(CLEAR, score, 0.5) == Decision("accept", None, score, 0.5)


def test_beyond_it_two_classes_that_share_the_image_are_ambiguous() -> None:
    # 0.45 and 0.4 are 0.85 together, wherever they stand.
    assert decide(TORN, 0.51, 0.5) == Decision("abstain", "ambiguous", 0.51, 0.5)


def test_beyond_it_an_image_that_no_two_classes_share_is_unfamiliar() -> None:
    assert decide(SCATTERED, 1.4, 0.5) == Decision("abstain", "unfamiliar", 1.4, 0.5)


def test_two_classes_share_an_image_from_three_quarters_on() -> None:
    at, below = np.array([0.5, 0.25, 0.25]), np.array([0.5, 0.2499, 0.2501 - 0.0005, 0.0005])
    assert decide(at, 1.0, 0.5) == Decision("abstain", "ambiguous", 1.0, 0.5)
    assert decide(below, 1.0, 0.5) == Decision("abstain", "unfamiliar", 1.0, 0.5)


def test_several_digits_are_never_accepted_however_clear() -> None:
    decided = decide(CLEAR, 0.1, 0.5, several_digits=True)
    assert decided == Decision("abstain", "several_digits", 0.1, 0.5)
