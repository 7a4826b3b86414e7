"""Many runs: kept, continued, shared, and what is recorded of them."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import training.train
from model.checkpoint import load_checkpoint
from tests.training.patterns import CPU, IMAGES, TINY
from training.config import Experiment, TrainConfig
from training.experiments import grid
from training.experiments.grid import Outcome, run_grid
from training.network import TrainableMLP
from training.train import evaluate_network, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


SHORT = replace(TINY, epochs=2, augmentation=0.0)


REGULARISED = replace(SHORT, l2=1e-3)


@pytest.fixture
def experiment(tmp_path: Path) -> Experiment:
    return Experiment(None, tmp_path / "runs", tmp_path / "figures", 2, None, "cpu")


def run(experiment: Experiment, *configs: TrainConfig) -> dict[TrainConfig, Outcome]:
    return run_grid(configs, IMAGES, experiment)


def trained_epochs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by each epoch that is trained."""
    epochs: list[int] = []
    original = training.train.train_epoch

    def record(run: Any, *arguments: Any) -> Any:
        epochs.append(run.epoch + 1)
        return original(run, *arguments)

    monkeypatch.setattr(training.train, "train_epoch", record)
    return epochs


def test_an_outcome_is_that_of_a_run_by_itself(experiment: Experiment, tmp_path: Path) -> None:
    outcomes = run(experiment, SHORT, REGULARISED)
    assert outcomes.keys() == {SHORT, REGULARISED}
    for config, outcome in outcomes.items():
        train(config, IMAGES, tmp_path / "alone", device=CPU)
        network = TrainableMLP.from_network(load_checkpoint(tmp_path / "alone").network)
        assert evaluate_network(outcome.network, IMAGES) == evaluate_network(network, IMAGES)
        assert outcome.series("epoch") == [1, 2]
        assert outcome.kept == outcome.history[-1]


def test_the_history_has_the_training_loss_with_dropout_off(experiment: Experiment) -> None:
    outcome = run(experiment, SHORT)[SHORT]
    scores = evaluate_network(outcome.network, IMAGES[:500])  # 100 are held out
    assert outcome.kept["plain_train_loss"] == scores.nll
    assert outcome.kept["plain_train_accuracy"] == 1 - scores.error
    assert outcome.kept["train_loss"] != scores.nll


def test_fewer_training_images_are_measured_alone(experiment: Experiment) -> None:
    config = replace(SHORT, training_images=50)
    outcome = run(experiment, config)[config]
    assert outcome.kept["plain_train_loss"] == evaluate_network(outcome.network, IMAGES[:50]).nll


def test_with_patience_the_kept_row_is_the_best(experiment: Experiment) -> None:
    config = replace(SHORT, epochs=12, learning_rate=0.1, patience=2)  # too large to settle
    outcome = run(experiment, config)[config]
    losses = outcome.series("validation_loss")
    assert len(losses) < 12
    assert outcome.kept["validation_loss"] == min(losses)
    assert outcome.kept != outcome.history[-1]
    assert evaluate_network(outcome.network, IMAGES[500:]).nll == min(losses)


def test_finished_runs_are_not_trained_again(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(experiment, SHORT)
    epochs = trained_epochs(monkeypatch)
    assert run(experiment, SHORT, SHORT)[SHORT].history == first[SHORT].history
    assert epochs == []
    run(experiment, SHORT, REGULARISED)
    assert epochs == [1, 2]
    assert "2 runs, 1 of them finished before" in capsys.readouterr().err


def test_an_interrupted_run_is_continued(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = run(replace(experiment, runs=tmp_path / "whole"), SHORT, REGULARISED)
    scored: list[int] = []

    def interrupt(*arguments: Any) -> Any:
        scored.append(1)
        # Each run is scored after its two epochs and at its end: this is the second run's second.
        if len(scored) == 5:
            raise KeyboardInterrupt
        return evaluate_network(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(training.train, "evaluate_network", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(experiment, SHORT, REGULARISED)
    epochs = trained_epochs(monkeypatch)
    outcomes = run(experiment, SHORT, REGULARISED)
    assert epochs == [2]
    for config, outcome in outcomes.items():
        assert outcome.kept["validation_loss"] == whole[config].kept["validation_loss"]
        assert outcome.kept["plain_train_loss"] == whole[config].kept["plain_train_loss"]


def test_progress_ends_complete_and_shows_the_time_left(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping = replace(SHORT, epochs=9, learning_rate=0.1, patience=1)
    run(experiment, SHORT, stopping)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last
    assert "5.50k/5.50k" in last  # 11 epochs of 500 images, though patience ended before
    assert re.search(r"\[\d+:\d+<00:00", last)


def test_seeds_and_epochs_of_an_experiment_are_those_of_its_runs(experiment: Experiment) -> None:
    assert experiment.seeded(SHORT) == [replace(SHORT, seed=0), replace(SHORT, seed=1)]
    shorter = replace(experiment, epochs=1, seeds=1)
    assert shorter.seeded(SHORT) == [replace(SHORT, epochs=1)]


def test_other_settings_are_other_files(experiment: Experiment) -> None:
    changed = [replace(SHORT, seed=1), replace(SHORT, l1=1e-6), replace(SHORT, epochs=3)]
    names = {grid._output(Path("runs"), config) for config in [SHORT, *changed]}
    assert len(names) == 4
