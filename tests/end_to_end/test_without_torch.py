"""What needs no torch runs without it, and what needs it says so in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT, SAMPLES, ServerStarter, sample

pytestmark = pytest.mark.slow

SEVEN = str(SAMPLES / "7.png")


@pytest.fixture(scope="module")
def without_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables with which a process finds no torch."""
    folder = tmp_path_factory.mktemp("without_torch")
    missing = "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    (folder / "torch.py").write_text(missing)
    return {"PYTHONPATH": str(folder)}


def run(package: str, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", package, *arguments]
    environ = {**os.environ, **env}
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_answers(
    servers: ServerStarter, without_torch: dict[str, str], workers: str
) -> None:
    server = servers.start("--workers", workers, environ=without_torch)
    for route in ("/predict", "/predict/mc?seed=1", "/predict/mc?seed=1&estimator=balanced"):
        answer = httpx.post(server.address + route, content=sample("7.png"), trust_env=False)
        assert answer.json()["digit"] == 7


def test_predict_answers(without_torch: dict[str, str]) -> None:
    done = run("app", "predict", SEVEN, "--json", env=without_torch)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["digit"] == 7


def test_score_answers(without_torch: dict[str, str], tmp_path: Path) -> None:
    digits = tmp_path / "digits"
    digits.mkdir()
    for path in SAMPLES.glob("[0-9].png"):
        shutil.copy(path, digits)
    table = str(tmp_path / "table.parquet")
    done = run("app", "score", str(digits), "-o", table, "--workers", "2", env=without_torch)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["app", "serve", "--device", "cuda"], 2),
        (["app", "bench", "engine", "--rounds", "2"], 2),
        (["training", "train"], 1),
        (["training", "calibrate"], 1),
        (["training", "evaluate"], 1),
        (["training", "compare"], 1),
        (["training", "teacher"], 1),
    ],
    ids=str,
)
def test_what_needs_torch_says_what_to_install(
    without_torch: dict[str, str], arguments: Sequence[str], code: int
) -> None:
    done = run(*arguments, env=without_torch)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert "torch" in line
    assert "pip install 'dropserve[" in line


def test_what_serving_imports_is_no_torch() -> None:
    """Though it is installed."""
    script = (
        "import sys\n"
        "import app.api.application, app.cli.predict.run, app.process.server, app.scoring.local\n"
        "from model.engines import build_engine\n"
        "from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint\n"
        "build_engine(load_checkpoint(DEFAULT_CHECKPOINT).network)\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'torch'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
