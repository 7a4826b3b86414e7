"""The peers compute the same as the product, and the report compares like with like.

`PEERS=all` also installs and runs the servers themselves.
"""

import math
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
from tests.load.overload import Figures, Latencies, Overload, Round
from tests.load.peers import overload, report
from tests.load.peers.digits import Digits, decode, expanded, load_network, textbook
from tests.load.peers.report import Cell, Comparison, Key, best_configurations, summary
from tests.load.peers.servers import OFF, PEERS, TASKS, peer_environment
from tests.load.servers import ROOT
from tests.load.wrk import IMAGES, PICTURE, Result
from tests.model.engines.torch_reference import forward
from tests.pages import command_for

needs_peers = pytest.mark.skipif(
    "PEERS" not in os.environ,
    reason=f"installs 6 GB: {command_for('the peers of the comparison')}",
)
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


def test_peers_prepare_pictures_well(digits: Digits) -> None:
    digits.passes = 20
    for files in IMAGES.values():
        answers = digits.answer(np.stack([decode(file) for file in files]))
        assert [answer["digit"] for answer in answers] == [n % 10 for n in range(len(files))]
        assert min(max(answer["probabilities"]) for answer in answers) > 0.9


def cell(rate: float) -> Cell:
    return Cell(Result(round(rate), 1.0, 1.0, 1.5, 2.0), 20, 1.0)


def comparison() -> Comparison:
    cells = {
        Key("Dropserve", "off", PICTURE, "predict", 1): [cell(100), cell(120)],
        Key("Dropserve", "off", PICTURE, "mc", 1): [cell(90), cell(90)],
        Key("Peer", "off", PICTURE, "loop", 1): [cell(3), cell(3)],
        Key("Peer", "16, 1 ms", PICTURE, "loop", 1): [cell(9), cell(10)],
        Key("Peer", "off", PICTURE, "predict", 1): [cell(50), cell(40)],
    }
    return Comparison("a machine", {"Dropserve": 1000, "Peer": 1234}, cells)


def test_a_peer_is_compared_at_its_best() -> None:
    assert best_configurations(comparison().cells)[2:] == [
        Key("Peer", "16, 1 ms", PICTURE, "loop", 1),
        Key("Peer", "off", PICTURE, "predict", 1),
    ]
    ratios, costs = (block.splitlines() for block in summary(comparison()).split("\n\n")[1:])
    assert ratios[0].split()[:3] == ["140x140,", "1", "connection"]
    deterministic, mc = "110 (100-120)", "90 (90-90)"
    assert ratios[1].split(maxsplit=2)[2].split("  ")[0] == deterministic
    assert ratios[1].endswith(mc)
    assert " ".join(ratios[2].split()) == "over Peer 2.5 (2.0-3.0) 9.5 (9.0-10.0) no answers"
    assert costs[2].split() == ["Peer", "1.0", "(1.0-1.0)", "20", "(20-20)", "1,234"]


def test_the_last_comparison_is_printed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "LAST", tmp_path / "comparison.json")
    report.save(comparison())
    assert report.last() == comparison()
    lines = report.table(report.last()).splitlines()
    assert len(lines) == 3 + len(comparison().cells)
    assert lines[3].split()[-5:] == ["110", "(100-120)", "1.00", "2.00", "none"]


def test_only_answers_count_under_overload() -> None:
    def a_round(answered: int, latencies: Latencies, memory: float) -> Round:
        return Round(1, {"batch": answered}, 0, 0, 1.0, {}, latencies, [90.0, memory])

    seconds = {"200": [0.1, 0.3], "429 overloaded": [0.01], "TimeoutError": [5.0]}
    latencies = {("batch", outcome): each for outcome, each in seconds.items()}
    full, overloaded = a_round(20, {}, 100), a_round(15, latencies, 130)
    figures = Figures(Overload({}, 10, 0), {"batch": 0.05}, {}, full, overloaded, [], None)

    expected = (20, 15, 0.75, 298, 0.25, 0.25, 30, math.inf)
    assert overload.row(figures) == pytest.approx(expected)
    assert list(overload.describe({"Peer": [figures]}))[-1].split()[-1] == "never"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_peers
@pytest.mark.parametrize("peer", [peer.name for peer in PEERS])
def test_a_peer_is_measured(peer: str) -> None:
    done = run("compare", "--peers", peer, "--rounds", "1", "--seconds", "1", "--connections", "4")
    (first, *_) = [line for line in done.stdout.splitlines() if f"over {peer}" in line]
    assert float(first.split()[2]) > 0
    failed = [line.split()[-1] for line in run("report").stdout.splitlines()[4:]]
    assert set(failed) == {"none"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_peers
@pytest.mark.parametrize("peer", [peer.name for peer in PEERS])
def test_a_peer_is_overloaded(peer: str) -> None:
    lines = run("overload", "--peers", peer, "--seconds", "2").stdout.splitlines()
    (full,) = [line for line in lines if line.startswith("answers/s at full load")]
    assert all(float(rate.replace(",", "")) > 0 for rate in full.split()[4:])


def run(script: str, *options: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [sys.executable, "-m", f"tests.load.peers.{script}", *options],
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done
