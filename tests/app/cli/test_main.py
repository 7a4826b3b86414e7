"""`dropserve` on the command line: help and wrong usage."""

import re
import subprocess
import sys

import pytest

from tests.app.cli.conftest import run
from tests.conftest import ROOT


@pytest.mark.parametrize("command", ["serve", "predict", "bench"])
def test_help_lists_the_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert command in capsys.readouterr().out


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


HEAVY = ("torch", "numpy", "PIL", "fastapi", "uvicorn", "httpx")


def test_help_wrong_settings_and_a_port_in_use_answer_before_torch_is_imported() -> None:
    script = (
        "import socket, sys\n"
        "taken = socket.create_server(('127.0.0.1', 0))\n"
        "port = str(taken.getsockname()[1])\n"
        "from app.__main__ import main\n"
        "for arguments in (['--help'], ['serve', '--help'], ['bench', 'engine', '--help'],\n"
        "                  ['predict', '--help'], ['predict'], ['--version'],\n"
        "                  ['serve', '--port', 'many'], ['serve', '--prot', '1'],\n"
        "                  ['serve', '--port', port]):\n"
        "    try:\n"
        "        main(arguments)\n"
        "    except SystemExit:\n"
        "        pass\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert finished.stdout.splitlines()[-1] == "[]"
    assert "the port is in use" in finished.stderr.splitlines()[-1]


@pytest.mark.parametrize("arguments", [[], ["serv"], ["serve", "--prot", "1"], ["serve", "x"]])
def test_wrong_usage_exits_2_and_shows_the_right_one(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert "usage: dropserve" in capsys.readouterr().err
