"""Dots, tables, JSON and CSV."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from app.cli.predict.writers import Csv, Dots, Table, Terminal
from app.schemas import CSV, FailedImage, McPrediction
from tests.app.cli.predict.conftest import (
    ACCEPT,
    DIGITS,
    DOUBTFUL,
    NAMES,
    SEVEN,
    abstain,
    answer_of,
    json_lines,
    predict,
)


def test_one_image_is_shown_as_dots_with_the_verdict_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert predict(DOUBTFUL, "--seed", "1", "--json") == 0
    answer = json_lines(capsys.readouterr().out)[0]

    assert predict(DOUBTFUL, "--seed", "1") == 0

    output, errors = capsys.readouterr()
    lines = output.splitlines()
    assert errors == ""
    assert "\x1b" not in output
    for digit, (line, votes) in enumerate(zip(lines, answer["votes"], strict=False)):
        dots = {answer["digit"]: "●"}.get(digit, "○") * votes
        assert line == (f"{digit} | {dots} {votes}" if votes else f"{digit} |")
    assert sum(line.count("●") + line.count("○") for line in lines[:10]) == 50
    assert "One dot is one pass, in the row of its best digit. Seed 1." in lines
    assert f"Predictive entropy {answer['predictive_entropy']:.3f} nats (0 is certain" in output
    assert "32 of 50 passes say 4, 18 say 9." in lines[-1]


def show(answer: McPrediction, labels: Sequence[str] = DIGITS, **terminal: Any) -> list[str]:
    stream = io.StringIO()
    shape: dict[str, Any] = {"columns": None, "has_colour": False, "has_unicode": True}
    Dots(stream, Terminal(**{**shape, **terminal}), labels).write("x.png", answer)
    return stream.getvalue().splitlines()


def test_no_dots_stand_out_where_passes_find_no_digit_likely() -> None:
    mean = (0.14, 0.12, *(0.0925,) * 8)
    answer = answer_of(
        {0: 50}, abstain("unfamiliar"), mean=mean, expected_entropy=2.2, mutual_information=0.01
    )

    assert show(answer)[0] == f"0 | {'·' * 50} 50"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_dots_fit_the_terminal_and_say_what_they_stand_for(columns: int) -> None:
    lines = show(answer_of({4: 801, 9: 198, 2: 1}, None), columns=columns)

    assert max(map(len, lines[:10])) <= columns
    (legend,) = [line for line in lines if line.startswith("One dot")]
    a_dot = int(legend.split()[5])
    assert lines[4].count("●") == -(-801 // a_dot)
    assert lines[9].count("○") == -(-198 // a_dot)
    assert lines[2].count("·") == 1
    assert lines[4].endswith(" 801")


def test_without_unicode_the_dots_are_plain_characters() -> None:
    lines = show(answer_of({4: 5, 9: 3, 2: 1}, None), has_unicode=False)

    assert (lines[4], lines[9], lines[2]) == ("4 | ##### 5", "9 | ooo 3", "2 | . 1")
    assert "\n".join(lines).isascii()


def test_colours_are_for_terminals_that_want_them() -> None:
    answer = answer_of({4: 5, 9: 3}, None)
    coloured = "\n".join(show(answer, has_colour=True))

    assert "\x1b[34m●●●●●\x1b[0m" in coloured
    assert "\x1b[33m○○○\x1b[0m" in coloured
    assert "\x1b" not in "\n".join(show(answer))


def test_a_prediction_set_is_shown() -> None:
    lines = show(answer_of({4: 5}, None, prediction_set=(4, 9)))

    assert "Prediction set: 4, 9." in lines


def test_rows_sets_and_rivals_are_called_by_their_labels() -> None:
    answer = answer_of({3: 28, 9: 22}, abstain("ambiguous"), label="trey", prediction_set=(3, 9))
    lines = show(answer, NAMES)

    assert [line.partition(" |")[0].strip() for line in lines[:10]] == NAMES
    assert "Prediction set: trey, nine." in lines
    assert "I'm not sure: trey or nine?" in lines

    stream = io.StringIO()
    Table(stream, Terminal(None, False, True), NAMES, ["x.png"]).write("x.png", answer)
    assert stream.getvalue().splitlines()[1].split()[:6] == [
        "x.png", "trey?", "28", "of", "50,", "nine:"
    ]  # fmt: skip


def test_many_images_are_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(str(folder), DOUBTFUL, "--seed", "1") == 0

    output, errors = capsys.readouterr()
    header, *rows = output.splitlines()
    assert errors == ""
    assert header.split() == ["file", "digit", "passes", "entropy", "decision"]
    assert [Path(row.split()[0]).name for row in rows] == [
        "1.PNG", "2.PNG", "3.PNG", "doubtful.png"
    ]  # fmt: skip
    assert [row.split()[1].rstrip("?") for row in rows] == ["1", "2", "3", "4"]
    assert "32 of 50, 9: 18" in rows[3]
    starts = {row.index(" of 50") for row in rows}
    assert len(starts) == 1


def test_the_table_shows_each_decision_and_fits_the_terminal() -> None:
    stream = io.StringIO()
    name = "a/very/long/path/" * 5 + "the_end.png"
    table = Table(stream, Terminal(80, False, True), DIGITS, [name])
    table.write(name, answer_of({4: 50}, ACCEPT))
    table.write(name, answer_of({4: 28, 9: 22}, abstain("ambiguous")))
    table.write(name, answer_of({4: 28, 9: 22}, abstain("several_digits")))
    table.write(name, answer_of({4: 50}, None))

    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.rsplit("  ", 1)[1] for line in lines[1:]] == [
        "answers", "abstains: ambiguous", "abstains: several digits", "-"
    ]  # fmt: skip
    assert " 4? " in lines[2]
    assert all("the_end.png" in line for line in lines[1:])


# Formats


def test_json_is_what_the_api_describes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    options = ["--passes", "40", "--estimator", "balanced", "--preprocess", "auto", "--seed", "9"]

    assert predict(SEVEN, str(tmp_path), *options, "--json") == 1

    good, bad = json_lines(capsys.readouterr().out)
    assert next(iter(good)) == next(iter(bad)) == "file"
    for line, schema in ((good, McPrediction), (bad, FailedImage)):
        del line["file"]
        TypeAdapter(schema).validate_json(json.dumps(line), strict=True)
        assert line.keys() <= {field.name for field in fields(schema)}
    assert (good["passes"], good["estimator"], good["seed"]) == (40, "balanced", 9)


def test_another_dropout_rate_is_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    options = [DOUBTFUL, "--seed", "1", "--dropout", "0.9"]

    assert predict(*options, "--json") == 0
    (answer,) = json_lines(capsys.readouterr().out)
    assert (answer["dropout"], answer["decision"]) == (230 / 256, None)
    assert predict(*options, "--csv") == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["dropout"], row["outcome"], row["reason"]) == ("0.8984375", "", "")
    assert predict(*options) == 0
    assert "No threshold holds for another dropout rate" in capsys.readouterr().out


def test_without_a_seed_each_image_draws_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(SEVEN, SEVEN, "--json") == 0

    first, second = json_lines(capsys.readouterr().out)
    assert first["seed"] != second["seed"]


def test_csv_has_a_row_for_each_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(SEVEN, str(tmp_path / "none.png"), DOUBTFUL, "--seed", "1", "--csv") == 1

    text = capsys.readouterr().out
    seven, none, doubtful = csv.DictReader(io.StringIO(text))
    assert (seven["file"], seven["digit"], seven["votes"]) == (SEVEN, "7", "0 0 0 0 0 0 0 50 0 0")
    assert (none["digit"], none["error"]) == ("", "unreadable_file")
    assert (doubtful["digit"], doubtful["seed"], doubtful["error"]) == ("4", "1", "")
    assert float(doubtful["predictive_entropy"]) == pytest.approx(0.682, abs=0.01)
    assert "\r" not in text


def test_csv_columns_are_the_fields_that_are_declared_for_csv() -> None:
    stream = io.StringIO()
    Csv(stream).write("x.png", answer_of({4: 50}, ACCEPT, prediction_set=(4, 9)))

    (row,) = csv.DictReader(io.StringIO(stream.getvalue()))
    declared = [each.name for each in fields(McPrediction) if CSV in each.metadata["places"]]
    assert ",".join(row) == (
        "file,digit,label,confidence,predictive_entropy,outcome,reason,model,prediction_set,"
        "expected_entropy,mutual_information,votes,passes,stop_reason,seed,estimator,dropout,"
        "error,message"
    )
    assert {*declared} - {*row} == {"decision"}
    assert (row["outcome"], row["reason"], row["model"]) == ("accept", "", "mnist 0")
    assert (row["prediction_set"], row["votes"]) == ("4 9", "0 0 0 0 50 0 0 0 0 0")


# Terminals


class Screen(io.TextIOWrapper):
    """A terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        buffer = self.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("images", [60, 70])
def test_a_long_list_has_a_progress_bar_where_somebody_looks(
    images: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)

    assert predict(*[SEVEN] * images, "--passes", "2", "--json") == 0

    assert ("70/70" in screen.shown) == (images == 70)
    assert len(json_lines(capsys.readouterr().out)) == images


def test_a_pipe_gets_no_progress_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(*[SEVEN] * 70, "--passes", "2", "--csv") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("variables", "is_coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
    ids=str,
)
def test_a_terminal_has_colours_unless_it_wants_none(
    variables: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)

    assert predict(DOUBTFUL) == 0
    assert ("\x1b[" in screen.shown) == is_coloured


def test_a_terminal_without_dots_gets_other_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen("latin-1")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")

    assert predict(SEVEN, "--passes", "100") == 0
    assert "#" * 25 in screen.shown
