"""Runs `dropserve predict`, and makes answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from app.schemas import Decision, McPrediction, ModelIdentity
from model.literals import Reason
from tests.app.cli.conftest import run
from tests.conftest import SAMPLES

DIGITS = [str(digit) for digit in range(10)]
# Of a network that gives its classes other names.
NAMES = ["nought", "ace", "deuce", "trey", "four", "five", "six", "seven", "eight", "nine"]
SEVEN, DOUBTFUL = str(SAMPLES / "7.png"), str(SAMPLES / "doubtful.png")


@pytest.fixture(autouse=True)
def threads(one_thread: None) -> None:
    """As many as a server uses."""


def predict(*arguments: str) -> int:
    """The exit code."""
    return run("predict", *arguments)


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three digits, one of them further below, and what is no image."""
    below = tmp_path / "below"
    below.mkdir()
    for name, place in (("1", tmp_path), ("2", tmp_path), ("3", below)):
        shutil.copy(SAMPLES / f"{name}.png", place / f"{name}.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    return tmp_path


ANSWER = McPrediction(
    digit=4,
    label="4",
    confidence=0.5,
    probabilities=(0.1,) * 10,
    predictive_entropy=0.8,
    decision=None,
    model=ModelIdentity(name="mnist", version="0"),
    mean=(0.1,) * 10,
    variance=None,
    standard_error=None,
    expected_entropy=0.2,
    mutual_information=0.6,
    votes=(0,) * 10,
    passes=50,
    stop_reason="passes",
    seed=1,
    estimator="independent",
)
ACCEPT = Decision(outcome="accept", reason=None, score=0.1, threshold=0.4)


def abstain(reason: Reason) -> Decision:
    return Decision(outcome="abstain", reason=reason, score=0.8, threshold=0.4)


def answer_of(votes: dict[int, int], decision: Decision | None, **fields: Any) -> McPrediction:
    """An answer for the digit with most votes, whose mean is the votes' share."""
    counted = tuple(votes.get(digit, 0) for digit in range(10))
    passes = sum(counted)
    digit = counted.index(max(counted))
    values = {
        **vars(ANSWER),
        "digit": digit,
        "label": str(digit),
        "votes": counted,
        "mean": tuple(count / passes for count in counted),
        "passes": passes,
        "decision": decision,
    }
    return McPrediction(**{**values, **fields})
