"""Calibration on one's own data: what is fitted, for which networks, and what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint import AnyCheckpoint, load_any_checkpoint, save_checkpoint
from model.engines import build_engine
from model.uncertainty.calibration import apply_temperature, prediction_set, read_calibration
from tests.model.layered_networks import tabular
from training.answers import predict_all, sample_all
from training.config import CalibrationRules
from training.errors import TrainingError
from training.own_data import calibrate_on

RULES = CalibrationRules(accepted_error=0.2, abstaining_share=0.1)
IMAGES = 600


def labelled(seed: int) -> tuple[Any, Any]:
    """Inputs whose classes are drawn from the network's own probabilities at temperature 2."""
    network, generator = tabular(), np.random.default_rng(seed)
    inputs: Any = generator.normal(6, 8, (IMAGES, 12)).astype(np.float32)
    probs = apply_temperature(predict_all(build_engine(network), inputs), 2.0)
    chances = probs.cumsum(axis=1) > generator.random((IMAGES, 1))
    return inputs, chances.argmax(axis=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "net", AnyCheckpoint(tabular(), training={"name": "mine"}))
    return tmp_path / "net"


def write(path: Path, **arrays: Any) -> Path:
    data = path.with_name("data.npz")
    np.savez(data, **arrays)
    return data


def test_what_is_fitted_holds_for_other_data(path: Path) -> None:
    inputs, labels = labelled(0)
    found = calibrate_on(write(path, inputs=inputs, labels=labels), path, path, RULES)
    stored = load_any_checkpoint(path)
    assert (stored.card(), stored.version) == (found.card(), found.version)
    assert stored.name == "mine"
    plain, mc = (read_calibration(stored.calibration, mode) for mode in ("predict", "mc"))
    assert plain.temperature == pytest.approx(2, rel=0.15)
    others, truth = labelled(1)
    answers = sample_all(build_engine(stored.network), others, passes=50, seed=0)
    assert mc.threshold is not None
    accepted = answers.predictive_entropy <= mc.threshold
    wrong = answers.mean.argmax(axis=1) != truth
    assert 0.1 < accepted.mean() < 0.95
    assert wrong[accepted].mean() < min(0.2, wrong.mean())
    probabilities = apply_temperature(answers.mean, mc.temperature)
    sets = [prediction_set(each, mc.conformal_quantiles[0.99]) for each in probabilities]
    covered = np.mean([true in found for true, found in zip(truth, sets, strict=True)])
    assert covered > 0.97


def test_labels_may_be_the_names_of_the_classes(path: Path) -> None:
    inputs, labels = labelled(0)
    names = np.array([f"class {label}" for label in labels])
    by_name = calibrate_on(write(path, inputs=inputs, labels=names), path, path, RULES)
    by_number = calibrate_on(write(path, inputs=inputs, labels=labels), path, path, RULES)
    assert by_name == replace(by_number, network=by_name.network)


def test_without_enough_data_there_is_no_threshold(path: Path) -> None:
    inputs, labels = labelled(0)
    data = write(path, inputs=inputs[:100], labels=labels[:100])
    found = calibrate_on(data, path, path, CalibrationRules())
    assert found.calibration["thresholds"] == {"predict": None, "mc": None}


def test_data_that_do_not_fit_are_refused(path: Path) -> None:
    inputs, labels = labelled(0)
    before = path.read_bytes()
    for arrays, message in (
        ({"inputs": inputs}, "needs an .npz file"),
        ({"inputs": inputs, "labels": np.array([object()] * IMAGES)}, "needs an .npz file"),
        ({"inputs": inputs[:, :3], "labels": labels}, r"shape \(N, 12\)"),
        ({"inputs": inputs, "labels": labels[:5]}, "labels"),
        ({"inputs": inputs[:99], "labels": labels[:99]}, "at least 100"),
        ({"inputs": inputs * np.nan, "labels": labels}, "finite"),
        ({"inputs": inputs, "labels": labels + 1}, "0 to 2"),
        ({"inputs": inputs, "labels": labels * 0.5}, "0 to 2"),
        ({"inputs": inputs, "labels": labels.astype(str)}, "names of the classes"),
    ):
        with pytest.raises(TrainingError, match=message):
            calibrate_on(write(path, **arrays), path, path, RULES)
    path.with_name("data.npz").write_bytes(b"no archive")
    with pytest.raises(TrainingError, match=r"needs an \.npz file"):
        calibrate_on(path.with_name("data.npz"), path, path, RULES)
    assert path.read_bytes() == before
