"""Thresholds of target errors, their validity, and when a decision has settled."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model.literals import ENTROPY_BOUNDS
from model.uncertainty.calibration import read_settling
from training.answers import McAnswers
from training.config import CalibrationRules
from training.operating_points import TARGET_ERRORS, entropy_shares, target_point, target_points
from training.selection import upper_bound
from training.settling import fit_settling, looks_before

Array = NDArray[np.float64]


def test_a_target_that_no_number_of_right_answers_supports_has_no_point() -> None:
    scores, wrong = np.linspace(0, 1, 5000), np.zeros(5000, bool)
    points = target_points(scores, wrong, 0.95)
    assert points["0.0005"] is None  # 6,000 would be needed
    assert points["0.001"] == {"threshold": pytest.approx(1), "coverage": 1}
    assert list(points) == [str(level) for level in TARGET_ERRORS]


def test_a_threshold_ends_where_the_bound_on_the_error_passes_the_target() -> None:
    wrong = np.zeros(5000, bool)
    wrong[[4700, 4800, 4900, 4950, 4960]] = True
    point = target_point(np.arange(5000.0), wrong, 0.002, 0.95)
    assert point is not None
    # Four wrong answers of 4,960 are few enough at 96 %, five are not.
    errors = np.cumsum(wrong)
    bounds = upper_bound(errors[4499:], np.arange(4500, 5001), 0.96)
    first_failure = 4500 + int(np.flatnonzero(bounds > 0.002)[0])
    assert point["coverage"] == pytest.approx((first_failure - 1) / 5000, abs=1e-4)
    assert first_failure - 2 < point["threshold"] < first_failure - 1


def test_a_wrong_label_among_the_most_certain_does_not_end_the_sequence() -> None:
    wrong = np.zeros(5000, bool)
    wrong[[1600, 1601]] = True  # two of 1,602 are too many, two of 5,000 are not
    point = target_point(np.arange(5000.0), wrong, 0.002, 0.95)
    assert point is not None
    assert point["coverage"] == 1


def test_a_network_that_cannot_accept_90_percent_has_points_all_the_same() -> None:
    generator = np.random.default_rng(0)
    scores = np.sort(generator.random(5000))
    wrong = generator.random(5000) < scores / 2
    assert wrong[:4500].mean() > 0.2
    point = target_point(scores, wrong, 0.05, 0.95)
    assert point is not None
    assert 0.05 < point["coverage"] < 0.3


@pytest.mark.parametrize(("confidence", "least", "most"), [(0.95, 0, 0.07), (0.2, 0.15, 0.8)])
def test_the_true_error_is_above_the_target_in_as_few_draws_as_the_confidence_says(
    confidence: float, least: float, most: float
) -> None:
    """400 draws from known chances of being wrong; the error up to a score s is 0.021 s."""
    generator = np.random.default_rng(1)
    failures = 0
    for _ in range(400):
        scores = np.sort(generator.random(1500))
        wrong = generator.random(1500) < 0.042 * scores
        point = target_point(scores, wrong, 0.02, confidence)
        failures += point is not None and 0.021 * min(point["threshold"], 1) > 0.02
    assert least <= failures / 400 <= most


def test_the_shares_of_a_histogram_are_cumulative() -> None:
    shares = entropy_shares(np.array([0.0, 0.001, 0.0011, 0.3, 2.3025]))
    assert shares[0] == 0.4
    assert shares[ENTROPY_BOUNDS.index(0.2)] == 0.6
    assert shares[ENTROPY_BOUNDS.index(0.3)] == 0.8
    assert (len(shares), shares[-1]) == (len(ENTROPY_BOUNDS), 0.8)


# When a decision has settled

DOCUMENT: dict[str, Any] = {
    "temperature": 1.0,
    "mc_temperature": 1.0,
    "thresholds": {"predict": 0.5, "mc": 0.5},
    "conformal": {},
    "target_errors": {"predict": {}, "mc": {"0.01": {"threshold": 0.02, "coverage": 0.5}}},
}


def answers(entropies: dict[int, Array]) -> dict[int, McAnswers]:
    """Of one class only, with these entropies after each number of passes."""
    images = len(entropies[4])
    nothing = np.zeros(images)
    mean = np.ones((images, 1))
    return {
        passes: McAnswers(mean, mean, entropy, nothing, nothing)
        for passes, entropy in entropies.items()
    }


def drift(images: int, late: int) -> dict[int, McAnswers]:
    """Entropies of 0.1; the last `late` images rise above 0.5 after 40 passes."""
    entropies = {}
    for passes in [*looks_before(100), 100]:
        entropies[passes] = np.full(images, 0.1)
        if passes > 40:
            entropies[passes][images - late :] = 0.9
    return answers(entropies)


def test_the_margin_is_the_narrowest_before_the_first_that_changes_too_many_decisions() -> None:
    rules = CalibrationRules(settling_share=0.003)
    few, many = (fit_settling(DOCUMENT, drift(5000, n), None, [100], rules) for n in (8, 9))
    assert few["scales"]["default"] == 0.25
    # Nine are too many: the margin must last beyond 32 passes.
    # |0.1 - 0.5| = scale * (0.7 + 1.1 * sqrt(0.1)) / sqrt(32)
    scale = 0.4 * np.sqrt(32) / (0.7 + 1.1 * np.sqrt(0.1))
    assert scale <= many["scales"]["default"] < scale + 0.1
    assert few["mean_passes"]["default"] < 5 < 40 < many["mean_passes"]["default"]
    assert (few["share"], few["confidence"]) == (0.003, 0.95)
    # Above the threshold of the target from the beginning on: it never changes.
    assert many["scales"]["0.01"] == 0.25
    assert read_settling({"until_decision": many}) == {None: many["scales"]["default"], 0.01: 0.25}


def test_kept_back_outliers_are_tested_too() -> None:
    rules = CalibrationRules(settling_share=0.003, settling_outlier_share=0.01)
    digits = drift(5000, 0)
    assert fit_settling(DOCUMENT, digits, drift(1000, 4), [100], rules)["scales"]["default"] == 0.25
    found = fit_settling(DOCUMENT, digits, drift(1000, 20), [100], rules)
    assert found["scales"]["default"] > 1


def test_too_few_images_have_no_rule() -> None:
    found = fit_settling(DOCUMENT, drift(100, 0), None, [100], CalibrationRules())
    assert found["scales"] == {"default": None, "0.01": None}
    assert read_settling({"until_decision": found}) == {}


@pytest.mark.parametrize("references", [[100], [50, 100]])
def test_a_decision_must_agree_with_that_of_every_number_of_passes(references: list[int]) -> None:
    """With 50 passes, those that change between 50 and 100 would have been accepted."""
    digits = drift(5000, 0)
    digits[50] = answers({4: np.append(np.full(4900, 0.1), np.full(100, 0.9))})[4]
    found = fit_settling(DOCUMENT, digits, None, references, CalibrationRules())
    assert (found["scales"]["default"] == 0.25) is (references == [100])
