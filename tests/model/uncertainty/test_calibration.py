"""Temperature scaling against its definition on logits, prediction sets, what is stored."""

import math
from dataclasses import FrozenInstanceError, replace
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from model.literals import ENTROPY_BOUNDS, Mode
from model.uncertainty.calibration import (
    Calibration,
    OperatingPoint,
    apply_temperature,
    prediction_set,
    read_calibration,
    read_entropy_shares,
    read_settling,
    with_missing,
)

TEMPERATURES = (0.25, 0.7, 1.0, 1.3, 4.0)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def draw_logits(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(0, 4, shape)


def test_temperature_1_changes_no_bit() -> None:
    probs = softmax(draw_logits(50, 10))
    assert apply_temperature(probs, 1.0).tobytes() == probs.tobytes()
    single = probs.astype(np.float32)
    assert apply_temperature(single, 1.0).tobytes() == single.astype(np.float64).tobytes()


def test_two_classes_worked_by_hand() -> None:
    # At T = 1/2 probabilities are squared and normalised: (0.64, 0.04) / 0.68.
    assert apply_temperature(np.array([0.8, 0.2]), 0.5) == pytest.approx([16 / 17, 1 / 17])
    # At T = 2 their roots: (0.8944, 0.4472) / 1.3416.
    assert apply_temperature(np.array([0.8, 0.2]), 2.0) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("shape", [(10,), (50, 10), (50, 3)])
def test_it_is_the_softmax_of_the_logits_divided_by_the_temperature(
    temperature: float, shape: tuple[int, ...]
) -> None:
    logits = draw_logits(*shape)
    scaled = apply_temperature(softmax(logits), temperature)
    assert scaled.dtype == np.float64
    assert scaled.shape == shape
    assert scaled == pytest.approx(softmax(logits / temperature), rel=1e-12)


def test_a_small_temperature_leaves_the_likeliest() -> None:
    # Each power alone would be 0.
    assert apply_temperature(np.array([0.4, 0.35, 0.25]), 1e-4) == pytest.approx(
        [1, 0, 0], abs=1e-300
    )


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_order_of_the_classes_is_kept(temperature: float) -> None:
    probs = softmax(draw_logits(50, 10))
    scaled = apply_temperature(probs, temperature)
    assert (scaled.argsort(axis=1) == probs.argsort(axis=1)).all()


def test_above_1_softens_and_below_1_sharpens() -> None:
    largest = softmax(draw_logits(50, 10)).max(axis=1)
    probs = softmax(draw_logits(50, 10))
    assert (apply_temperature(probs, 2.0).max(axis=1) < largest).all()
    assert (apply_temperature(probs, 0.5).max(axis=1) > largest).all()


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_probability_of_0_stays_0_and_harms_no_other(temperature: float) -> None:
    # Probabilities of confident answers underflow to 0 in float32.
    probs = np.array([[1, 0, 0], [0.8, 0, 0.2]], dtype=np.float32)
    scaled = apply_temperature(probs, temperature)
    assert scaled.sum(axis=1) == pytest.approx([1, 1], rel=1e-7)
    assert scaled[0] == pytest.approx([1, 0, 0], abs=1e-70)
    assert scaled[1, 1] == pytest.approx(0, abs=1e-70)
    ratio = (0.8 / 0.2) ** (1 / temperature)
    assert scaled[1, 0] / scaled[1, 2] == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.001, 100.0])
def test_extreme_temperatures_give_numbers(temperature: float) -> None:
    scaled = apply_temperature(np.array([0.4, 0.35, 0.25, 0.0]), temperature)
    assert np.isfinite(scaled).all()
    assert scaled.sum() == pytest.approx(1, rel=1e-15)
    assert scaled.argmax() == 0
    assert scaled[3] == 0


def test_the_probabilities_given_are_not_changed() -> None:
    probs = softmax(draw_logits(5, 10))
    before = probs.copy()
    probs.flags.writeable = False
    apply_temperature(probs, 2.0)
    assert (probs == before).all()


# Prediction sets


def test_a_set_holds_what_is_likely_enough_the_likeliest_first() -> None:
    probabilities = np.array([0.05, 0.6, 0.1, 0.25])
    assert prediction_set(probabilities, 0.07) == [1, 3, 2]
    assert prediction_set(probabilities, 0.1) == [1, 3, 2]  # at least, not more
    assert prediction_set(probabilities, 0.11) == [1, 3]
    assert prediction_set(probabilities, 0.0) == [1, 3, 2, 0]


def test_a_set_always_holds_the_likeliest_class() -> None:
    assert prediction_set(np.array([0.3, 0.4, 0.3]), 0.99) == [1]


def test_equal_classes_stand_in_their_order_as_the_answer_chooses_them() -> None:
    probabilities = np.array([0.1, 0.45, 0.45])
    assert prediction_set(probabilities, 0.2) == [1, 2]
    assert prediction_set(probabilities, 0.9) == [probabilities.argmax()]


# What the checkpoint stores

STORED: dict[str, Any] = {
    "temperature": 1.5,
    "mc_temperature": 0.5,
    "thresholds": {"predict": None, "mc": 0.25},
    "conformal": {"0.9": {"predict": 0.125, "mc": 0.0625}, "0.99": None},
    "fitted_with": None,
}


def test_each_kind_of_answer_has_its_own_calibration() -> None:
    assert read_calibration(STORED, "predict") == Calibration(1.5, None, {0.9: 0.125})
    assert read_calibration(STORED, "mc") == Calibration(0.5, 0.25, {0.9: 0.0625})


def test_nothing_is_calibrated_by_default() -> None:
    assert vars(Calibration()) == {
        "temperature": 1.0,
        "threshold": None,
        "conformal_quantiles": {},
        "unfamiliar_threshold": None,
        "targets": {},
    }


def test_what_is_read_once_for_many_answers_cannot_be_changed() -> None:
    for value in (Calibration(), OperatingPoint(0.1, 0.9)):
        with pytest.raises(FrozenInstanceError):
            value.threshold = 1.0  # type: ignore[misc]


TARGETS = {
    "predict": {"0.01": {"threshold": 0.5, "coverage": 0.75}, "0.001": None},
    "mc": {"0.01": {"threshold": 0.25, "coverage": 0.875}},
}


def test_each_kind_of_answer_has_the_target_errors_that_could_be_fitted() -> None:
    document = {**STORED, "target_errors": TARGETS}
    assert read_calibration(document, "predict").targets == {0.01: OperatingPoint(0.5, 0.75)}
    assert read_calibration(document, "mc").targets == {0.01: OperatingPoint(0.25, 0.875)}
    for none in (None, {"mc": None}, {}):
        assert read_calibration({**STORED, "target_errors": none}, "mc").targets == {}


def test_a_target_error_replaces_both_thresholds() -> None:
    whole = Calibration(1.5, 0.3, {0.9: 0.1}, 0.2, {0.01: OperatingPoint(0.5, 0.75)})
    assert whole.at(0.01) == replace(whole, threshold=0.5, unfamiliar_threshold=None)
    assert whole.at(0.02) == replace(whole, threshold=None, unfamiliar_threshold=None)


def row(passes: int, value: float, threshold: float | None = 0.5) -> dict[str, Any]:
    return {
        "passes": passes,
        "temperature": 1 + value,
        "threshold": threshold,
        "unfamiliar_threshold": None if passes == 1 else value,
        "conformal": {"0.9": value / 2},
    }


BY_PASSES = {**STORED, "by_passes": [row(1, 0.1, None), row(2, 0.2), row(10, 0.4, 0.75)]}


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (1, Calibration(1.1, None, {0.9: 0.05}, None)),
        (2, Calibration(1.2, 0.5, {0.9: 0.1}, 0.2)),
        # 1/5 is three quarters of the way from 1/2 to 1/10.
        (5, Calibration(1.35, 0.6875, {0.9: 0.175}, 0.35)),
        (10, Calibration(1.4, 0.75, {0.9: 0.2}, 0.4)),
        (1000, Calibration(1.4, 0.75, {0.9: 0.2}, 0.4)),
    ],
)
def test_between_numbers_of_passes_a_value_is_linear_in_their_reciprocal(
    passes: int, expected: Calibration
) -> None:
    found = read_calibration(BY_PASSES, "mc", passes)
    for name, value in vars(expected).items():
        assert getattr(found, name) == (pytest.approx(value) if value is not None else None), name


def test_fewer_passes_than_the_least_have_its_values() -> None:
    document = {**STORED, "by_passes": BY_PASSES["by_passes"][1:]}
    assert read_calibration(document, "mc", 1) == read_calibration(document, "mc", 2)


def test_target_errors_between_numbers_of_passes_need_both_of_them() -> None:
    def with_targets(one: dict[str, Any], value: float, *, third: Any) -> dict[str, Any]:
        point = {"threshold": value, "coverage": 2 * value}
        targets = {"0.01": point, "0.02": None, "0.03": third, "0.04": {**point, "coverage": None}}
        return {**one, "target_errors": targets}

    rows = [
        with_targets(row(2, 0.2), 0.1, third={"threshold": 0.5, "coverage": 0.5}),
        with_targets(row(10, 0.4), 0.3, third=None),
    ]
    found = read_calibration({**STORED, "by_passes": rows}, "mc", 5)

    assert found.targets.keys() == {0.01}
    # Three quarters of the way, as above.
    assert vars(found.targets[0.01]) == pytest.approx({"threshold": 0.25, "coverage": 0.5})


def test_a_quantile_that_one_number_of_passes_lacks_is_left_out() -> None:
    few, many = row(2, 0.2), row(10, 0.4)
    rows = [{**few, "conformal": {"0.9": 0.1, "0.99": 0.2}}]
    rows.append({**many, "conformal": {"0.9": 0.2, "0.99": None}})
    found = read_calibration({**STORED, "by_passes": rows}, "mc", 5)

    assert found.conformal_quantiles == {0.9: pytest.approx(0.175)}


def test_the_rule_for_ending_early_is_read_by_target_error() -> None:
    rule = {"scales": {"default": 2, "0.01": 0.5, "0.02": None}}
    assert read_settling({"until_decision": rule}) == {None: 2.0, 0.01: 0.5}
    for none in ({}, {"until_decision": None}, {"until_decision": {"scales": None}}):
        assert read_settling(none) == {}
    for damage in ("wide", True, math.inf):
        with pytest.raises(TypeError, match="finite numbers"):
            read_settling({"until_decision": {"scales": {"default": damage}}})


def test_the_shares_of_entropies_are_those_up_to_each_of_the_bounds_of_today() -> None:
    shares = {"predict": [1] * len(ENTROPY_BOUNDS), "mc": [0.5] * len(ENTROPY_BOUNDS)}
    stored = {"entropy_histogram": {"bounds": list(ENTROPY_BOUNDS), **shares}}
    for mode in get_args(Mode):
        assert read_entropy_shares(stored, mode) == shares[mode]
    for bounds in ([*ENTROPY_BOUNDS, 9.0], ENTROPY_BOUNDS[:-1], [-1, *ENTROPY_BOUNDS[1:]]):
        others = {"entropy_histogram": {**stored["entropy_histogram"], "bounds": bounds}}
        assert read_entropy_shares(others, "mc") is None
    assert read_entropy_shares({}, "mc") is None


@pytest.mark.parametrize("count", [len(ENTROPY_BOUNDS) - 1, len(ENTROPY_BOUNDS) + 1])
def test_a_histogram_without_a_share_for_each_bound_is_refused(count: int) -> None:
    histogram = {"bounds": list(ENTROPY_BOUNDS), "mc": [0.5] * count}
    with pytest.raises(ValueError, match="a share for each"):
        read_entropy_shares({"entropy_histogram": histogram}, "mc")


def test_what_an_older_checkpoint_lacks_is_null_and_has_its_reason() -> None:
    later: dict[str, Any] = {
        "target_errors": {},
        "until_decision": {},
        "entropy_histogram": {},
    }
    assert with_missing({**STORED, **later}) == {**STORED, **later}

    completed = with_missing({**STORED, **later, "until_decision": None})
    assert completed["missing"].keys() == {"until_decision"}
    assert "dropserve-train calibrate" in completed["missing"]["until_decision"]
    completed = with_missing(STORED)
    assert completed["missing"].keys() == later.keys()
    assert {key: completed[key] for key in later} == dict.fromkeys(later)


def test_without_a_number_of_passes_and_without_dropout_the_values_are_those_of_all() -> None:
    for mode in get_args(Mode):
        assert read_calibration(BY_PASSES, mode) == read_calibration(STORED, mode)
        assert read_calibration(STORED, mode, 5) == read_calibration(STORED, mode)
    assert read_calibration(BY_PASSES, "predict", 5) == read_calibration(STORED, "predict")


@pytest.mark.parametrize(
    "damage",
    [
        {"temperature": 0},
        {"temperature": -1},
        {"temperature": None},
        {"threshold": math.nan},
        {"conformal": 3},
    ],
    ids=str,
)
def test_a_damaged_row_is_refused(damage: dict[str, Any]) -> None:
    document = {**STORED, "by_passes": [{**row(2, 0.2), **damage}]}
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_calibration(document, "mc", 2)


@pytest.mark.parametrize(
    "damage",
    [
        {"temperature": 0.0},
        {"temperature": -0.5},
        {"temperature": "warm"},
        {"temperature": True},
        {"thresholds": {"predict": math.nan}},
        {"thresholds": {"mc": None}},
        {"thresholds": None},
        {"conformal": {"0.9": 0.125}},
        {"conformal": {"most": {"predict": 0.125, "mc": 0.0625}}},
        {"conformal": 3},
    ],
    ids=str,
)
def test_a_damaged_calibration_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        read_calibration({**STORED, **damage}, "predict")
