"""The checkpoint that the settings name."""

from pathlib import Path

import pytest

from app.inference.served_checkpoint import load_served_checkpoint
from app.settings import Settings
from model.checkpoint import Checkpoint, save_checkpoint
from model.errors import CheckpointError
from model.network import MLPConfig
from training.network import TrainableMLP


def test_a_network_for_other_images_is_refused(tmp_path: Path) -> None:
    labels = ("a", "b")
    config = MLPConfig((16, 4, 2), (0.5,), (4, 4), labels, mean=0.0, std=1.0)
    path = tmp_path / "small.safetensors"
    save_checkpoint(path, Checkpoint(TrainableMLP(config).to_network()))

    with pytest.raises(CheckpointError, match="only 28x28 is served"):
        load_served_checkpoint(Settings(checkpoint=path))


def test_without_a_setting_the_committed_checkpoint_is_served(
    default_checkpoint: Checkpoint,
) -> None:
    assert load_served_checkpoint(Settings()).version == default_checkpoint.version
