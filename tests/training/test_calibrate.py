"""Calibration: the whole command, and fits against optima that are known."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import training.calibrate
import training.train
from model.checkpoint import Checkpoint, save_checkpoint
from model.engines import build_engine
from model.uncertainty.calibration import apply_temperature, prediction_set, read_calibration
from tests.training.bars import RULES, calibrated, draw_digits
from training.answers import dataset_of, sample_all
from training.calibrate import (
    abstention_threshold,
    fit,
    fit_temperature,
    least_probability,
    upper_quantile,
)
from training.config import CalibrateOptions, CalibrationRules
from training.data import MNIST
from training.pool import Pool, save_pool
from training.selection import upper_bound

pytestmark = pytest.mark.usefixtures("one_thread")


Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def loaded(few_images: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.calibrate, "load_images", lambda *_: draw_digits(500, 1))


def test_everything_is_fitted_and_the_rest_stays(trained: Checkpoint) -> None:
    found = calibrated(trained)
    for one, other in zip(found.network.layers, trained.network.layers, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)
    assert found.training == trained.training
    assert found.network.config == trained.network.config
    assert found.metrics["validation"] == {"error": 0.125}
    for kind in ("predict", "mc"):
        calibration = read_calibration(found.calibration, kind)
        assert calibration.temperature > 0
        assert calibration.threshold is not None
        assert sorted(calibration.conformal_quantiles) == [0.99, 0.995, 0.999]
        # 300 images are too few for 0.999: every class is in every set.
        assert calibration.conformal_quantiles[0.999] == 0
    assert found.calibration["fitted_with"]["images"] == 300


def test_each_number_of_passes_has_a_calibration_and_one_pass_cannot_disagree(
    trained: Checkpoint,
) -> None:
    found = calibrated(trained).calibration
    assert [row["passes"] for row in found["by_passes"]] == [1, 2, 8, 20]
    of_8 = read_calibration(found, "mc", 8)
    assert of_8.temperature == found["mc_temperature"]
    assert of_8.threshold == found["thresholds"]["mc"]
    assert of_8.unfamiliar_threshold is not None
    assert read_calibration(found, "mc", 1).unfamiliar_threshold is None
    # A single pass is less certain of the true class than the mean of many.
    quantiles = [row["conformal"]["0.99"] for row in found["by_passes"]]
    assert quantiles[0] < quantiles[-1]


def test_the_thresholds_reject_the_stated_shares_of_the_digits(trained: Checkpoint) -> None:
    calibration = read_calibration(calibrated(trained).calibration, "mc", 8)
    assert calibration.threshold is not None
    assert calibration.unfamiliar_threshold is not None
    engine = build_engine(trained.network)
    digits = sample_all(engine, draw_digits(300, 4).pixels, passes=8, seed=training.calibrate.SEED)
    disagrees = digits.mutual_information > calibration.unfamiliar_threshold
    assert disagrees.sum() == 3  # 1 % of 300
    accepted = (digits.predictive_entropy <= calibration.threshold) & ~disagrees
    assert accepted.sum() == 291  # 97 %


def test_kept_back_outliers_of_a_pool_are_measured_too(trained: Checkpoint, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(5, 28, 28), dtype=np.uint8)
    save_pool(tmp_path / "pool", Pool({}, {("noise", "none"): noise}))
    save_checkpoint(tmp_path / "raw", trained)
    options = CalibrateOptions(None, tmp_path / "raw", pool=tmp_path / "pool")
    found = training.calibrate.calibrate(options, RULES)
    measured = found.metrics["calibrated_validation"]["kept_back"]
    assert list(measured) == ["mirrored", "noise, none", "shuffled"]
    assert set(measured["noise, none"]) == {"entropy_auroc", "disagreement_auroc", "accepted"}


def test_a_network_gets_a_name_of_its_own(trained: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "raw", trained)
    options = CalibrateOptions(None, tmp_path / "raw", tmp_path / "named", name="mnist-plain")
    found = training.calibrate.calibrate(options, RULES)
    assert (trained.name, found.name) == ("mnist", "mnist-plain")
    assert dataset_of(found) is MNIST


def test_what_cannot_be_fitted_is_null_and_said(
    trained: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    found = fit(trained, draw_digits(300, 4), {}, CalibrationRules(accepted_error=0.0001))
    assert found.calibration["thresholds"] == {"predict": None, "mc": None}
    assert found.calibration["temperature"] != 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "answers without dropout, answers of 1 passes, answers of 2 passes" in line
    assert line.endswith("allow more with --accepted-error")


def test_the_same_checkpoint_gets_the_same_bytes_and_so_does_a_calibrated_one(
    trained: Checkpoint, tmp_path: Path
) -> None:
    first, second, again = (tmp_path / name for name in ("first", "second", "again"))
    save_checkpoint(tmp_path / "raw", trained)
    for source, output in (("raw", first), ("raw", second), ("first", again)):
        options = CalibrateOptions(None, tmp_path / source, output)
        training.calibrate.calibrate(options, RULES)
    assert first.read_bytes() == second.read_bytes() == again.read_bytes()


def draw_answers(count: int, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    """Probabilities (N, 4) and classes drawn from them: perfectly calibrated answers."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (count, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probs.cumsum(axis=1) < generator.random((count, 1))).sum(axis=1)
    return probs, labels


# Temperatures


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_spoilt_calibrated_answers_is_found(temperature: float) -> None:
    probs, labels = draw_answers(20_000)
    spoilt = apply_temperature(probs, 1 / temperature)
    # Its standard error is about 1 / sqrt(N) times a factor near 1: 3 % are several of them.
    assert fit_temperature(spoilt, labels) == pytest.approx(temperature, rel=0.03)


def test_two_classes_worked_by_hand() -> None:
    # Three of four are right at odds of 9: the best odds are 3, and 9^(1/2) = 3.
    probs = np.tile([0.9, 0.1], (4, 1))
    assert fit_temperature(probs, np.array([0, 0, 0, 1])) == pytest.approx(2, abs=1e-4)


def test_certain_and_wrong_answers_still_get_a_finite_temperature() -> None:
    probs = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert 1 < fit_temperature(probs, np.array([0, 1])) <= 20


# Abstaining


def test_the_upper_bound_of_no_errors_is_the_rule_of_three() -> None:
    # (1 - p)^n = 0.05
    exact = 1 - 0.05 ** (1 / 1000)
    assert upper_bound(np.int64(0), np.int64(1000), 0.95) == pytest.approx(exact, rel=1e-9)
    assert exact == pytest.approx(3 / 1000, rel=0.01)


def test_the_upper_bound_of_errors_alone_is_1() -> None:
    assert upper_bound(np.int64(3), np.int64(3), 0.95) == 1


def threshold(scores: Array, wrong: NDArray[np.bool_], **rules: float) -> float | None:
    wanted = {"abstaining_share": 0.0, "accepted_error": 0.5, "confidence": 0.5, **rules}
    return abstention_threshold(scores, wrong, CalibrationRules(**wanted))


def test_the_stated_share_is_rejected_though_nothing_is_wrong() -> None:
    scores = np.arange(1000) / 1000
    found = threshold(scores, np.zeros(1000, dtype=bool), abstaining_share=0.03)
    assert found is not None
    assert (scores <= found).sum() == 970


def test_more_is_rejected_where_errors_need_it() -> None:
    scores = np.arange(1000) / 1000
    wrong = np.zeros(1000, dtype=bool)
    wrong[[500, 600, 700, 800]] = True
    found = threshold(scores, wrong, abstaining_share=0.03, accepted_error=0.0065, confidence=0.95)
    assert found is not None
    accepted = int((scores <= found).sum())
    # With one error the bound is at 0.0065 for 728 images (4.744 / 728): one error is at 500,
    # the next at 600, which 600 images cannot carry; 700 with two errors (6.296 / 700) neither.
    bounds = [
        float(upper_bound(np.int64(wrong[:n].sum()), np.int64(n), 0.95)) for n in range(1, 971)
    ]
    assert bounds[accepted - 1] <= 0.0065
    assert all(bound > 0.0065 for bound in bounds[accepted:])
    assert accepted == 500


def test_without_enough_right_answers_there_is_no_threshold() -> None:
    scores = np.arange(100) / 100
    right = np.zeros(100, dtype=bool)
    assert threshold(scores, right, accepted_error=0.001, confidence=0.95) is None


def test_the_order_of_the_images_does_not_matter() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random(500)
    wrong = scores + generator.random(500) > 1.7
    shuffled = generator.permutation(500)
    rules = {"accepted_error": 0.02, "confidence": 0.9}
    one, other = (
        threshold(scores, wrong, **rules),
        threshold(scores[shuffled], wrong[shuffled], **rules),
    )
    assert one == other is not None


def test_the_sequence_of_tests_ends_at_the_first_that_fails() -> None:
    scores = np.arange(1000) / 1000
    wrong = np.zeros(1000, dtype=bool)
    wrong[[600, 601]] = True
    # Two errors fail from 602 images on; that 970 of them would pass is no longer asked.
    assert upper_bound(np.int64(2), np.int64(970), 0.95) < 0.0066 < 6.2 / 602
    found = threshold(scores, wrong, abstaining_share=0.03, accepted_error=0.0066, confidence=0.95)
    assert found is not None
    assert (scores <= found).sum() == 600


def test_digits_that_disagreement_rejects_are_accepted_at_no_entropy() -> None:
    scores = np.where(np.arange(1000) < 980, np.arange(1000) / 1000, np.inf)
    found = threshold(scores, np.zeros(1000, dtype=bool))
    assert found is not None
    assert (scores <= found).sum() == 980


def test_a_quantile_is_exceeded_by_the_share() -> None:
    scores = np.random.default_rng(0).permutation(200) / 7
    assert (scores > upper_quantile(scores, 0.03)).sum() == 6
    assert (scores > upper_quantile(scores, 0)).sum() == 0


# Prediction sets


def test_the_quantile_is_that_of_a_finite_sample() -> None:
    # p(true class) 0.90, 0.80, ... 0.10 for nine images. Level 0.8 of ten places is the 8th: 0.2.
    likelihoods = np.arange(9, 0, -1) / 10
    probs = np.stack([likelihoods, 1 - likelihoods], axis=1)
    labels = np.zeros(9, dtype=np.int64)
    assert least_probability(probs, labels, 0.8) == pytest.approx(0.2, abs=1e-4)
    # 0.81 needs the 9th of 9, and 0.91 a tenth, which is not there: every class.
    assert least_probability(probs, labels, 0.81) == pytest.approx(0.1, abs=1e-4)
    assert least_probability(probs, labels, 0.91) == 0


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_sets_cover_new_images_as_often_as_promised(level: float) -> None:
    """Over many calibrations coverage is at least the level, and at most 1 / (N + 1) above it."""
    covered = []
    for seed in range(40):
        probs, labels = draw_answers(400, seed)
        least = least_probability(probs[:200], labels[:200], level)
        sets = [prediction_set(each, least) for each in probs[200:]]
        covered += [label in each for label, each in zip(labels[200:], sets, strict=True)]
    error = math.sqrt(level * (1 - level) / len(covered)) * math.sqrt(2)  # of both halves
    assert level - 3 * error < np.mean(covered) < level + 1 / 201 + 3 * error


def test_the_stored_value_is_never_above_the_quantile() -> None:
    probs = np.array([[0.123456789, 0.876543211]])
    found = least_probability(probs, np.array([0]), 0.4)
    assert found == pytest.approx(0.1234, abs=1e-12)
    assert found <= 0.123456789
