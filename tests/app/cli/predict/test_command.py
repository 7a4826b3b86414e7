"""The options of `dropserve predict`."""

from typing import get_args

import pytest

from model.literals import Estimator
from tests.app.cli.predict.conftest import DOUBTFUL, SEVEN, predict


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "FILES"),
        ([SEVEN, "--passes", "many"], "--passes"),
        ([SEVEN, "--passes", "0"], "passes must be"),
        ([SEVEN, "--passes", "1001"], "1000"),
        ([SEVEN, DOUBTFUL, "--seed", "-1"], "seed must be"),
        ([SEVEN, "--max-standard-error", "nan"], "max_standard_error"),
        (
            [SEVEN, "--max-standard-error", "0.1", "--estimator", "balanced"],
            "independent",
        ),
        ([SEVEN, "--estimator", "odd"], "--estimator"),
        ([SEVEN, "--dropout", "0.95"], "dropout must be a number from 0 to 0.9"),
        ([SEVEN, "--dropout", "0.5", "--coverage", "0.99"], "leave out coverage or dropout"),
        ([SEVEN, "--dropout", "0.5", "--fail-on-abstain"], "--fail-on-abstain"),
        ([SEVEN, "--json", "--csv"], "--csv"),
        ([SEVEN, "--url", "http://127.0.0.1:9", "--checkpoint", "x"], "--checkpoint"),
        ([SEVEN, "--url", "localhost:8000"], "such as http://127.0.0.1:8000"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_right(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(*arguments) == 2

    output, errors = capsys.readouterr()
    assert output == ""
    assert words in errors


def test_help_knows_the_estimators(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("--help") == 0
    assert f"{{{','.join(get_args(Estimator))}}}" in capsys.readouterr().out
