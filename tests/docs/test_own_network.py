"""The page on one's own network: its commands run in order and end in a decision."""

import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from model.checkpoint import load_any_checkpoint
from model.engines import build_engine
from model.engines.protocol import predict_probs
from tests.conftest import ROOT, ServerStarter
from tests.docs.test_commands import run
from tests.pages import commands_of

pytestmark = pytest.mark.slow

KERAS = ROOT / "tests/training/importing/files/tabular"


def test_the_commands_lead_from_a_file_of_keras_to_a_decision(
    servers: ServerStarter, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    commands = (command for command, _ in commands_of("docs/own-network.md"))
    read, calibrate, serve, ask, score, speed = commands
    assert speed == "python -m tests.load.own_networks"
    shutil.copyfile(KERAS.with_suffix(".keras"), tmp_path / "network.keras")
    done = run(command_here(read), tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    network = tmp_path / "models/wine/1/model.safetensors"
    save_labelled(tmp_path / "labelled.npz", network)
    done = run(command_here(calibrate), tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr

    environ = {"PYTHONPATH": str(ROOT)}
    server = servers.start(*serve.split()[2:], folder=tmp_path, environ=environ)
    assert ask.startswith("curl --json '")
    body, address = ask.removeprefix("curl --json '").removesuffix("'").split("' '")
    path = address.removeprefix("http://127.0.0.1:8000")
    answer = httpx.post(server.address + path, json=json.loads(body), trust_env=False).json()

    assert answer["model"]["name"] == "wine"
    assert answer["label"] in ("low", "middle", "high")
    assert answer["decision"]["outcome"] in ("accept", "abstain")
    assert "no_decision" not in answer

    values = np.array(json.loads(body)["input"], np.float32)
    np.save(tmp_path / "rows.npy", values[None])
    done = run(command_here(score) + " --seed 1", tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(tmp_path / "table.parquet").to_pylist()
    assert row["label"] == answer["label"]
    assert np.float32(row["mean"]).tolist() == np.float32(answer["mean"]).tolist()


def command_here(command: str) -> str:
    """As of a checkout that was never installed."""
    command = command.replace("dropserve-train", "python -m training")
    return command.replace("dropserve score", "python -m app score")


def save_labelled(path: Path, network: Path) -> None:
    """Inputs of which the network knows nine in ten."""
    engine, generator = build_engine(load_any_checkpoint(network).network), np.random.default_rng(0)
    with np.load(KERAS.with_suffix(".npz")) as saved:
        known = saved["inputs"]
    inputs = generator.choice(known.reshape(-1), (600, 12)).astype(np.float32)
    probs = np.stack([predict_probs(engine, each) for each in inputs])
    is_known, others = generator.random(600) < 0.9, generator.integers(0, 3, 600)
    labels = np.where(is_known, probs.argmax(axis=1), others)
    np.savez(path, inputs=inputs, labels=labels)
