"""What `dropserve predict` asks, where it prints what, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.auth import key_line, make_key
from app.settings import load_settings
from tests.app.cli.predict.conftest import DIGITS, DOUBTFUL, SEVEN, answer_of, json_lines, predict
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter, sample


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
    guarded = servers.start(
        "--api-keys-file", str(file), environ={"DROPSERVE_URL": "http://not.used"}
    )
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
        "from app.__main__ import main\n"
        "try:\n"
        f"    main(['predict', {SEVEN!r}, {DOUBTFUL!r}, '--seed', '1', '--csv'])\n"
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
