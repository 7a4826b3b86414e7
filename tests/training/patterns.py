"""A training run of seconds for the tests: ten made-up patterns, and the settings they need."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.checkpoint import Checkpoint, load_checkpoint
from training.config import TrainConfig
from training.data import Images
from training.errors import TrainingError
from training.runs import RunFiles
from training.train import train

CPU = torch.device("cpu")


# 20 steps an epoch, and averaged weights that follow within one.
TINY = TrainConfig(epochs=4, batch_size=25, averaging=0.9, validation_images=100)


def make_images(count: int) -> Images:
    """Ten patterns of 4x4 squares, noisy; smooth enough to survive the augmentation."""
    generator = np.random.default_rng(0)
    patterns = generator.integers(0, 2, (10, 4, 4)).repeat(7, axis=1).repeat(7, axis=2) * 200
    labels = generator.integers(0, 10, count)
    noise = generator.integers(0, 56, (count, 28, 28))
    return Images((patterns[labels] + noise).astype(np.uint8), labels.astype(np.int64))


IMAGES = make_images(600)


def run(output: Path, config: TrainConfig = TINY, *, resume: bool = False) -> Checkpoint:
    train(config, IMAGES, output, device=CPU, resume=resume)
    return load_checkpoint(output)


def read_history(output: Path) -> list[dict[str, Any]]:
    return RunFiles(output).rows()


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_as_undisturbed(output: Path, undisturbed: Path) -> None:
    assert output.read_bytes() == undisturbed.read_bytes()
    assert without_seconds(read_history(output)) == without_seconds(read_history(undisturbed))
    assert {path.name for path in output.parent.iterdir()} == {
        "net.safetensors",
        "net.safetensors.history.jsonl",
    }


def refusal(output: Path, config: TrainConfig = TINY, *, resume: bool) -> str:
    """The message of the refusal: one line that names the run, which stays as it was."""
    before = {path: path.read_bytes() for path in output.parent.iterdir()}
    with pytest.raises(TrainingError) as caught:
        run(output, config, resume=resume)
    assert {path: path.read_bytes() for path in output.parent.iterdir()} == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(output) in message
    return message
