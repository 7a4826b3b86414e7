"""What is asked of every image: what is refused, and by which a run knows its own parts."""

from dataclasses import replace
from typing import Any

import pytest

from app.errors import UsageError
from app.scoring.question import Question
from app.settings import Settings

QUESTION = Question(
    passes=50,
    seed=None,
    estimator="independent",
    preprocess="auto",
    column=None,
    settings=Settings(max_passes=100),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"passes": 0}, "from 1 to 100"),
        ({"passes": 101}, "from 1 to 100"),
        ({"seed": -1}, "from 0 to 2"),
        ({"seed": 2**53}, "from 0 to 2"),
    ],
)
def test_what_a_server_refuses_is_wrong_usage(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(QUESTION, **changes)


@pytest.mark.parametrize("changes", [{"passes": 100}, {"seed": 0}, {"seed": 2**53 - 1}])
def test_the_largest_and_the_smallest_values_are_taken(changes: dict[str, Any]) -> None:
    assert replace(QUESTION, **changes) != QUESTION


@pytest.mark.parametrize(
    "changes",
    [
        {"passes": 51},
        {"seed": 0},
        {"estimator": "balanced"},
        {"preprocess": "none"},
        {"column": "image"},
        {"settings": Settings(max_passes=100, max_pixels=784)},
    ],
)
def test_everything_that_the_answers_depend_on_is_described(changes: dict[str, Any]) -> None:
    described = QUESTION.describe(b"network")

    assert replace(QUESTION, **changes).describe(b"network") != described
    assert QUESTION.describe(b"other")["model"] != described["model"]
    assert QUESTION.describe(b"network") == described
