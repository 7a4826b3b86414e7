"""The page on dropout: its commands and options exist, its figures are there."""

import re
from pathlib import Path

import pytest

from training.cli import build_parser, main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "experiments.md").read_text()
COMMANDS = re.findall(r"^\$ dropserve-train (.*)$", PAGE, re.MULTILINE)


def test_every_command_is_one_that_the_program_knows() -> None:
    assert {command.split()[0] for command in COMMANDS} == {
        "compare",
        "regularisers",
        "sweep",
        "rotate",
    }
    for command in COMMANDS:
        assert build_parser().parse_args(command.split()).figures == Path("training/figures")


def test_every_figure_stands_below_the_command_that_draws_it() -> None:
    shown = {}
    for section in PAGE.split("\n## "):
        for figure in re.findall(r"\]\(\.\./training/figures/([\w-]+)\.svg\)", section):
            shown[figure] = re.findall(r"^\$ dropserve-train (\w+.*)$", section, re.MULTILINE)
    drawn = {path.stem for path in (ROOT / "training" / "figures").iterdir()}
    assert shown.keys() == drawn
    for figure, commands in shown.items():
        name = {"rotated_digit": "rotate"}.get(figure, figure.split("-")[0])
        assert [name in command for command in commands] == [True], figure
        for ending in ("svg", "png"):
            path = ROOT / "training" / "figures" / f"{figure}.{ending}"
            assert 0 < path.stat().st_size < 200_000


def test_every_option_of_the_table_is_one_of_train(capsys: pytest.CaptureFixture[str]) -> None:
    options = re.findall(r"^\| [\w -]+ \|.*\| `(--[\w-]+)`", PAGE, re.MULTILINE)
    assert len(options) == 6
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    known = capsys.readouterr().out.split()
    assert set(options) <= set(known)
