"""Experiments of one epoch and one seed on 600 images."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from model.network import MLPConfig
from tests.training.patterns import make_images
from training.config import Experiment
from training.experiments import grid
from training.experiments.grid import Outcome
from training.network import TrainableMLP

# The experiments hold out 5,000 images, or validate on 10,000.
TRAINING, TEST = make_images(5600), make_images(10_000)


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """One epoch of each run, one seed, on 600 images."""
    splits = {"train": TRAINING, "test": TEST}
    monkeypatch.setattr(grid, "load_images", lambda split, data_dir: splits[split])
    return Experiment(None, tmp_path / "runs", tmp_path / "figures", 1, 1, "cpu")


def outcome(**quantities: Sequence[float]) -> Outcome:
    """A run with a made-up history."""
    rows = [
        dict(zip(quantities, values, strict=True))
        for values in zip(*quantities.values(), strict=True)
    ]
    return Outcome(TrainableMLP(MLPConfig()), rows[-1], rows)


def figures_in(experiment: Experiment) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in experiment.figures.iterdir()}
