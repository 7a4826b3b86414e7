"""`dropserve predict`: what it reads, what it prints where, and how it ends."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from pydantic import TypeAdapter

from app.api.auth import key_line, make_key
from app.cli.main import main
from app.cli.predict_output import Dots, Table, Terminal
from app.cli.predict_words import word_verdict
from app.client.results import Decision, McPrediction, ModelIdentity
from app.schemas import FailedImage
from app.schemas import McPrediction as McSchema
from app.settings import load_settings
from model.literals import Estimator
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter, sample

DIGITS = [str(digit) for digit in range(10)]
SEVEN, DOUBTFUL = str(SAMPLES / "7.png"), str(SAMPLES / "doubtful.png")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """No settings from outside."""
    for variable in os.environ:
        if variable.startswith("DROPSERVE_"):
            monkeypatch.delenv(variable)


def predict(*arguments: str) -> int:
    """The exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["predict", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


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


# One image


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
    assert f"Doubt {answer['predictive_entropy']:.3f}" in output
    assert "28 of 50 passes say 4, 22 say 9." in lines[-1]


ANSWER = McPrediction(
    digit=4,
    label="4",
    confidence=0.5,
    probabilities=(0.1,) * 10,
    predictive_entropy=0.8,
    model=ModelIdentity("mnist", "0"),
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
ACCEPT = Decision("accept", None, 0.1, 0.4)


def abstain(reason: str) -> Decision:
    return Decision("abstain", reason, 0.8, 0.4)


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


WORDS = [
    ({7: 50}, ACCEPT, "It's a 7. All 50 passes agree."),
    ({8: 50}, ACCEPT, "It's an 8. All 50 passes agree."),
    (
        {4: 47, 9: 3},
        ACCEPT,
        "It's a 4. 47 of 50 passes say 4, 3 say 9. That is within my limit for doubt.",
    ),
    (
        {4: 28, 9: 21, 7: 1},
        abstain("ambiguous"),
        "I'm not sure: 4 or 9? 28 of 50 passes say 4, 21 say 9. I would rather not answer; a "
        "person should look.",
    ),
    (
        {4: 50},
        abstain("ambiguous"),
        "I'm not sure. Perhaps a 4. All 50 passes lean to 4, but none of them firmly.",
    ),
    (
        {5: 17, 0: 9, 2: 9, 3: 8, 6: 4, 8: 3},
        abstain("unfamiliar"),
        "I don't recognise this. The passes scatter over 6 digits; the best, 5, has 17 of 50. It "
        "may not be a digit. I only know digits, and some other shapes will still fool me.",
    ),
    (
        {4: 50},
        abstain("several_digits"),
        "I see more than one digit. I read one at a time: erase all but one.",
    ),
    (
        {4: 49, 9: 1},
        None,
        "Most likely a 4. 49 of 50 passes say 4, 1 says 9. This network has no limit for doubt: "
        "whether that is sure enough is yours to judge.",
    ),
    ({4: 1}, ACCEPT, "It's a 4. The only pass says 4."),
    (
        {4: 1},
        abstain("unfamiliar"),
        "I'm not sure. Perhaps a 4. The only pass leans to 4, but not firmly.",
    ),
]


def test_passes_that_find_no_digit_likely_are_not_said_to_differ() -> None:
    mean = (0.14, 0.12, *(0.0925,) * 8)
    answer = answer_of(
        {0: 50}, abstain("unfamiliar"), mean=mean, expected_entropy=2.2, mutual_information=0.01
    )
    words = " ".join(word_verdict(answer, DIGITS))
    assert words == (
        "I don't recognise this. The passes find no digit likely: even the best gets only 14 % on "
        "average. It may not be a digit. I only know digits, and some other shapes will still "
        "fool me."
    )
    # Nor do the dots stand out.
    assert show(answer)[0] == f"0 | {'·' * 50} 50"


@pytest.mark.parametrize(("votes", "decision", "words"), WORDS)
def test_the_verdict_has_the_words_of_the_playground(
    votes: dict[int, int], decision: Decision | None, words: str
) -> None:
    assert " ".join(word_verdict(answer_of(votes, decision), DIGITS)) == words


def test_the_rival_of_an_ambiguous_image_is_the_second_by_mean() -> None:
    means = (0.0, 0.4, 0.05, 0.0, 0.45, 0.0, 0.0, 0.1, 0.0, 0.0)
    answer = answer_of({4: 45, 7: 5}, abstain("ambiguous"), mean=means)

    headline, reason = word_verdict(answer, DIGITS)
    assert headline == "I'm not sure: 4 or 1?"
    assert reason.startswith("45 of 50 passes say 4. ")


def test_the_digit_need_not_have_most_votes() -> None:
    answer = answer_of({4: 24, 9: 26}, None, digit=4, label="4")

    assert "24 of 50 passes say 4, 26 say 9." in word_verdict(answer, DIGITS).reason


def show(answer: McPrediction, **terminal: Any) -> list[str]:
    stream = io.StringIO()
    shape: dict[str, Any] = {"columns": None, "has_colour": False, "has_unicode": True}
    Dots(stream, Terminal(**{**shape, **terminal}), DIGITS).write("x.png", answer)
    return stream.getvalue().splitlines()


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


# Many images


def test_many_images_are_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(str(folder), DOUBTFUL, "--seed", "1") == 0

    output, errors = capsys.readouterr()
    header, *rows = output.splitlines()
    assert errors == ""
    assert header.split() == ["file", "digit", "passes", "doubt", "decision"]
    assert [Path(row.split()[0]).name for row in rows] == [
        "1.PNG", "2.PNG", "3.PNG", "doubtful.png"
    ]  # fmt: skip
    assert [row.split()[1].rstrip("?") for row in rows] == ["1", "2", "3", "4"]
    assert "28 of 50, 9: 22" in rows[3]
    starts = {row.index(" of 50") for row in rows}
    assert len(starts) == 1


def test_the_table_tells_each_decision_and_fits_the_terminal() -> None:
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


@pytest.mark.parametrize("extra", [[], ["--json"], ["--csv"]])
def test_a_corrupt_file_among_good_ones_fails_alone(
    extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(sample("7.png")[:100])

    assert predict(SEVEN, str(corrupt), str(tmp_path / "none.png"), DOUBTFUL, *extra) == 1

    output, errors = capsys.readouterr()
    for name in (SEVEN, str(corrupt), DOUBTFUL):
        assert name in output
    first, second = errors.splitlines()
    assert first.startswith(f"dropserve: {corrupt}: the image is cut off")
    assert second.startswith(f"dropserve: {tmp_path / 'none.png'}: there is no such file")
    if extra == ["--json"]:
        lines = json_lines(output)
        assert [one.get("error", {}).get("code") for one in lines] == [
            None, "truncated_image", "unreadable_file", None
        ]  # fmt: skip


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(SEVEN, DOUBTFUL, "-o", "/dev/full") == 1
    assert capsys.readouterr().err == "dropserve: No space left on device\n"


def test_a_name_cannot_command_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a\x1b[31m\nb.png", "c.png"):
        shutil.copy(SEVEN, tmp_path / name)

    assert predict(str(tmp_path)) == 0

    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert len(output.splitlines()) == 3


# Formats


def test_json_is_what_the_api_describes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    options = ["--passes", "40", "--estimator", "balanced", "--preprocess", "auto", "--seed", "9"]

    assert predict(SEVEN, str(tmp_path), *options, "--json") == 1

    good, bad = json_lines(capsys.readouterr().out)
    assert next(iter(good)) == next(iter(bad)) == "file"
    for line, schema in ((good, McSchema), (bad, FailedImage)):
        del line["file"]
        TypeAdapter(schema).validate_json(json.dumps(line), strict=True)
        assert line.keys() <= {field.name for field in fields(schema)}
    assert (good["passes"], good["estimator"], good["seed"]) == (40, "balanced", 9)


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
    assert float(doubtful["predictive_entropy"]) == pytest.approx(0.860, abs=0.01)
    assert "\r" not in text


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "txt"])
def test_output_goes_to_a_file_in_the_format_of_its_ending(
    ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = {"csv": ["--csv"], "jsonl": ["--json"], "json": ["--json"], "txt": []}[ending]
    arguments = [SEVEN, DOUBTFUL, "--seed", "1"]
    assert predict(*arguments, *option) == 0
    printed = capsys.readouterr().out

    assert predict(*arguments, "-o", str(tmp_path / f"out.{ending}")) == 0

    assert capsys.readouterr() == ("", "")
    assert (tmp_path / f"out.{ending}").read_text() == printed


def test_a_file_that_cannot_be_written_is_noticed_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(SEVEN, "-o", str(tmp_path / "no" / "out.csv")) == 2

    output, errors = capsys.readouterr()
    assert output == ""
    assert "cannot be written" in errors


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


# A server


@pytest.fixture(scope="module")
def server(servers: ServerStarter) -> RunningServer:
    return servers.start(environ={"DROPSERVE_URL": "http://not.used"})


@pytest.mark.slow
def test_a_server_gives_the_same_bytes_as_the_network_here(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(sample("7.png")[:100])
    inputs = [str(SAMPLES), str(tmp_path), str(tmp_path / "none.png")]
    for options in (["--json"], ["--csv"], [], ["--estimator", "balanced", "--json"]):
        arguments = [*inputs, "--seed", "1", *options]
        assert predict(*arguments) == 1
        here = capsys.readouterr()
        assert predict(*arguments, "--url", server.address) == 1
        assert capsys.readouterr() == here
    assert predict(DOUBTFUL, "--seed", "1", "--json", "--url", server.address) == 0
    line = capsys.readouterr().out
    answer = httpx.post(f"{server.address}/predict/mc?seed=1", content=sample("doubtful.png"))
    assert line == f'{{"file":{json.dumps(DOUBTFUL)},{answer.text[1:]}\n'


@pytest.mark.slow
def test_a_server_that_wants_a_key_is_given_it(
    servers: ServerStarter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key, file = make_key(), tmp_path / "keys"
    file.write_text(key_line(key, "predict"))
    guarded = servers.start("--api-keys-file", str(file))
    asking = (SEVEN, "--url", guarded.address, "--csv")

    assert predict(*asking) == 2
    assert "API key" in capsys.readouterr().err
    assert predict(*asking, "--api-key", key) == 0
    monkeypatch.setenv("DROPSERVE_API_KEY", key)
    assert predict(*asking) == 0
    monkeypatch.setenv("DROPSERVE_API_KEY", make_key())
    assert predict(*asking) == 2
    code, errors = guarded.stop(signal.SIGTERM, within_seconds=10)
    assert code == 0
    assert key not in errors


@pytest.mark.slow
def test_a_server_is_asked_without_torch(server: RunningServer) -> None:
    script = (
        "import sys\n"
        "from app.cli.main import main\n"
        "try:\n"
        f"    main(['predict', {SEVEN!r}, {DOUBTFUL!r}, '--csv'])\n"
        "except SystemExit as end:\n"
        "    print(end.code)\n"
        "print([name for name in ('torch', 'fastapi', 'numpy', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "DROPSERVE_URL": server.address},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert "4,4," in done.stdout


@pytest.mark.slow
def test_an_explicit_checkpoint_runs_here_whatever_the_variable_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DROPSERVE_URL", "http://127.0.0.1:9")

    assert predict(SEVEN, "--checkpoint", str(tmp_path / "none")) == 2
    assert "No such file" in capsys.readouterr().err


def test_no_server_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict(SEVEN, "--url", "http://127.0.0.1:9") == 1

    output, errors = capsys.readouterr()
    assert output == ""
    (line,) = errors.splitlines()
    assert line.startswith("dropserve: no server answers at http://127.0.0.1:9")


def test_the_server_does_not_mind_the_variable() -> None:
    load_settings({"DROPSERVE_URL": "http://127.0.0.1:8000"})


# How it ends


class Deciding:
    """A server whose every answer has the next of some decisions."""

    def __init__(self, decisions: Sequence[dict[str, Any] | None]) -> None:
        following = iter(decisions)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = self.rfile.read(int(self.headers["content-length"]))
                inputs = json.loads(request)["inputs"]
                answers = [{**answer, "decision": next(following)} for _ in inputs]
                self._answer({"predictions": answers})

            def do_GET(self) -> None:
                self._answer({"config": {"labels": DIGITS}})

            def _answer(self, content: Any) -> None:
                body = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        answer = {
            name: vars(value) if name == "model" else value
            for name, value in vars(answer_of({4: 50}, None)).items()
            if name not in ("raw", "extra")
        }
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


SURE = {"outcome": "accept", "reason": None, "score": 0.1, "threshold": 0.4}
UNSURE = {"outcome": "abstain", "reason": "ambiguous", "score": 0.8, "threshold": 0.4}


@pytest.fixture
def deciding(request: pytest.FixtureRequest) -> Iterator[str]:
    server = Deciding(request.param)
    yield server.address
    server.close()


@pytest.mark.parametrize(
    ("deciding", "extra", "code"),
    [
        ([SURE, UNSURE], [], 0),
        ([SURE, UNSURE], ["--fail-on-abstain"], 3),
        ([SURE, SURE], ["--fail-on-abstain"], 0),
        ([SURE, UNSURE], ["--fail-on-abstain", "no such file"], 1),
        ([SURE, None], ["--fail-on-abstain"], 2),
    ],
    indirect=["deciding"],
)
def test_abstaining_is_an_answer_unless_it_shall_fail(
    deciding: str, extra: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict("--url", deciding, *extra, SEVEN, DOUBTFUL) == code

    output, errors = capsys.readouterr()
    assert len(output.splitlines()) == 3 + ("no such file" in extra)
    assert ("never abstains" in errors) == (code == 2)


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


def test_settings_hold_here_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DROPSERVE_MAX_PASSES", "7")
    assert predict(SEVEN) == 2
    assert "1 to 7" in capsys.readouterr().err
    # Limits that protect a server do not hold the user's own files up.
    monkeypatch.delenv("DROPSERVE_MAX_PASSES")
    monkeypatch.setenv("DROPSERVE_MAX_BODY_BYTES", "1024")
    assert predict(SEVEN) == 0
    monkeypatch.setenv("DROPSERVE_PROT", "7")
    assert predict(SEVEN) == 2
    assert "DROPSERVE_PORT" in capsys.readouterr().err


def test_help_knows_the_estimators(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("--help") == 0
    assert f"{{{','.join(get_args(Estimator))}}}" in capsys.readouterr().out
