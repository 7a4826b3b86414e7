"""A run from beginning to end, a trained network, and MNIST in a few bytes.

Fixtures import what they need themselves, since not every test needs torch.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.training.idx_files import CONTENTS
from training.data import MNIST

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The checkpoint of a run from beginning to end; nobody writes to it."""
    from tests.training.patterns import run

    output = tmp_path_factory.mktemp("undisturbed") / "net.safetensors"
    run(output)
    return output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


@pytest.fixture
def tiny_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksums of the tiny files, and a cache of the test's own."""
    for name, content in CONTENTS.items():
        monkeypatch.setitem(MNIST.md5, name, hashlib.md5(content).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("DROPSERVE_DATA_DIR", raising=False)


@pytest.fixture(scope="session")
def trained(one_thread: None) -> "Checkpoint":
    from tests.training.bars import train_small

    return train_small()


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer outliers and passes than a real calibration takes."""
    import training.calibrate

    monkeypatch.setattr(training.calibrate, "UNFAMILIAR_PER_KIND", 10)
    monkeypatch.setattr(training.calibrate, "GRID", (1, 2, 20))
    monkeypatch.setattr(training.calibrate, "PASSES", 8)
