"""The peers compute the same as the product, and the report compares like with like.

`PEERS=all` also installs and runs the servers themselves.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from app.api.examples import example_digits
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.literals import SIDE
from model.network import MLP
from tests.load.peers.digits import Digits, expanded, load_network, textbook
from tests.load.peers.report import Cell, Key, best_configurations, to_text
from tests.load.peers.servers import OFF, PEERS, TASKS, peer_environment
from tests.load.servers import ROOT
from tests.load.wrk import Result
from tests.model.engines.torch_reference import forward
from tests.pages import command_for

PIXELS = np.stack(example_digits()[:4]).reshape(4, SIDE * SIDE)


@pytest.fixture(params=TASKS)
def digits(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Digits:
    for name, value in peer_environment(request.param, 400, OFF, 0).items():
        monkeypatch.setenv(name, value)
    return Digits()


def normalised(network: MLP) -> torch.Tensor:
    config = network.config
    return (torch.tensor(PIXELS) / 255 - config.mean) / config.std


def test_peers_answer_as_the_product_does(digits: Digits) -> None:
    network = load_checkpoint(DEFAULT_CHECKPOINT).network
    exact = forward(network, normalised(network)).softmax(-1)
    answers = digits.answer(PIXELS)
    assert [answer["digit"] for answer in answers] == exact.argmax(-1).tolist()
    # Within the error of 400 passes, and without dropout within that of floats.
    tolerance = 1e-5 if digits.task == "predict" else 0.05
    for answer, row in zip(answers, exact.tolist(), strict=True):
        assert answer["probabilities"] == pytest.approx(row, abs=tolerance)
        assert ("variance" in answer) == (digits.task != "predict")


def test_the_loop_and_the_batch_are_the_same_estimate(one_thread: None) -> None:
    network, mean, std = load_network(DEFAULT_CHECKPOINT)
    network.train()
    torch.manual_seed(0)
    x = (torch.tensor(PIXELS).float() / 255 - mean) / std
    # Uncertain inputs, for which dropout makes a difference.
    x = x.mean(0, keepdim=True).repeat(2, 1)
    passes = 2000
    with torch.inference_mode():
        first, second = (way(network, x, passes) for way in (textbook, expanded))
    assert first.shape == second.shape == (passes, 2, 10)
    error = (first.var(0) / passes + second.var(0) / passes).sqrt()
    assert bool(((first.mean(0) - second.mean(0)).abs() <= 5 * error + 1e-6).all())
    assert float(first.var(0).max()) == pytest.approx(float(second.var(0).max()), rel=0.2)


def cell(rate: float) -> Cell:
    return Cell(Result(round(rate), 1.0, 1.0, 1.5, 2.0), 2**20, 1.0)


def test_a_peer_is_compared_at_its_best() -> None:
    cells = {
        Key("Dropserve", "off", "predict", 1): [cell(100), cell(120)],
        Key("Dropserve", "off", "mc", 1): [cell(90), cell(90)],
        Key("Peer", "off", "loop", 1): [cell(3), cell(3)],
        Key("Peer", "16, 1 ms", "loop", 1): [cell(9), cell(10)],
        Key("Peer", "off", "predict", 1): [cell(50), cell(40)],
    }
    assert best_configurations(cells) == [
        Key("Peer", "16, 1 ms", "loop", 1),
        Key("Peer", "off", "predict", 1),
    ]
    loop, deterministic = to_text(cells).splitlines()[-2:]
    assert loop.split()[-2:] == ["9.5", "(9.0-10.0)"]
    assert deterministic.split()[-2:] == ["2.5", "(2.0-3.0)"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    "PEERS" not in os.environ,
    reason=f"installs 5 GB: {command_for('the peers of the comparison')}",
)
@pytest.mark.parametrize("peer", [peer.name for peer in PEERS])
def test_a_peer_is_measured(peer: str) -> None:
    options = ["--peers", peer, "--rounds", "1", "--seconds", "1", "--connections", "4"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.peers.compare", *options],
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(peer)]
    assert rows
    assert all(row.endswith(("none", ")")) for row in rows)
