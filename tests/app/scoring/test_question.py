"""What is asked of every image: what is refused, and by which a run knows its own parts."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.cli.scoring import read_question
from app.errors import UsageError
from app.schemas import McParameters
from app.scoring.question import Question
from app.settings import Settings
from model.checkpoint import AnyCheckpoint, save_checkpoint
from model.errors import CheckpointError
from tests.model.layered_networks import tabular

GIVEN = {
    "passes": 50,
    "seed": None,
    "estimator": "independent",
    "preprocess": "auto",
    "column": None,
    "checkpoint": None,
    "workers": None,
}
QUESTION = Question(McParameters(), None, Settings())


def read(changes: dict[str, Any]) -> Question:
    return read_question(argparse.Namespace(**{**GIVEN, **changes}))


@pytest.fixture(autouse=True)
def at_most_100_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DROPSERVE_MAX_PASSES", "100")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": 0}, "^--passes must be a whole number from 1 to 100$"),
        ({"passes": 101}, "^--passes must be a whole number from 1 to 100$"),
        ({"seed": -1}, "^--seed must be a whole number from 0 to 2"),
        ({"seed": 2**53}, "^--seed must be a whole number from 0 to 2"),
        ({"workers": 0}, "^--workers must be"),
    ],
)
def test_what_a_server_refuses_is_wrong_usage(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(changes)


@pytest.mark.parametrize("changes", [{"passes": 100}, {"seed": 0}, {"seed": 2**53 - 1}])
def test_the_largest_and_the_smallest_values_are_taken(changes: dict[str, Any]) -> None:
    assert read(changes) != read({})


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": McParameters(passes=51)},
        {"parameters": McParameters(seed=0)},
        {"parameters": McParameters(estimator="balanced")},
        {"parameters": McParameters(preprocess="none")},
        {"column": "image"},
        {"settings": Settings(max_pixels=784)},
    ],
)
def test_everything_that_the_answers_depend_on_is_described(changes: dict[str, Any]) -> None:
    assert replace(QUESTION, **changes).describe() != QUESTION.describe() == QUESTION.describe()


def test_another_network_is_another_question(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, AnyCheckpoint(tabular()))
    changed = replace(QUESTION, settings=Settings(checkpoint=other))
    assert changed.describe()["model"] != QUESTION.describe()["model"]
    other.unlink()
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        changed.describe()
