"""Which images the arguments of `dropserve predict` name."""

import io
import shutil
import sys
from pathlib import Path

import pytest

from tests.app.cli.predict.conftest import DOUBTFUL, SEVEN, json_lines, predict
from tests.conftest import sample


def test_folders_patterns_and_files_are_expanded_in_order(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)

    assert predict("below", "**/*.PNG", "[1]*.PNG", "1.PNG", "--json") == 0

    found = json_lines(capsys.readouterr().out)
    below = str(Path("below", "3.PNG"))
    assert [one["file"] for one in found] == [
        below, "1.PNG", "2.PNG", below, "1.PNG", "1.PNG"
    ]  # fmt: skip
    assert [one["digit"] for one in found] == [3, 1, 2, 3, 1, 1]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(SEVEN, tmp_path / "[a]*.dat")

    assert predict(str(tmp_path / "[a]*.dat"), "--json") == 0
    assert json_lines(capsys.readouterr().out)[0]["digit"] == 7


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sample("7.png"))))


def test_a_dash_is_standard_input(stdin: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("-", DOUBTFUL, "--json") == 0

    found = json_lines(capsys.readouterr().out)
    assert [one["file"] for one in found] == ["-", DOUBTFUL]
    assert found[0]["digit"] == 7


def test_standard_input_is_one_image(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("-", "-") == 2
    assert "once" in capsys.readouterr().err


def test_nothing_is_computed_where_nothing_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # An impossible checkpoint: it would be noticed.
    arguments = ["--checkpoint", str(tmp_path / "no checkpoint")]

    assert predict(str(tmp_path), str(tmp_path / "*.png"), *arguments) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"dropserve: {tmp_path}: there is no image in this folder",
        f"dropserve: {tmp_path / '*.png'}: no file matches this pattern",
    ]
    assert predict(SEVEN, *arguments) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_name_that_no_file_can_have_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("x" * 5000, SEVEN, "--json") == 1

    first, second = json_lines(capsys.readouterr().out)
    assert first["error"]["code"] == "unreadable_file"
    assert second["digit"] == 7
