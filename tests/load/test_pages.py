"""Every command of the page about load testing runs as printed, only for a shorter time."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.open_inference.clients.environments import (
    PERF_ANALYZER_MEASURES,
    PERF_ANALYZER_MEASURES_SHORTLY,
    install_perf_analyzer,
)
from tests.conftest import ROOT, RunningServer, ServerStarter
from tests.pages import command_for, commands_of

pytestmark = pytest.mark.slow

ADDRESS = "127.0.0.1:8000"
COMMANDS = [command for command, _ in commands_of("docs/load-testing.md")]
SERVE = "taskset --cpu-list 0 dropserve serve"
# Without the script that printed a table of the page.
LOADS = [command for command in COMMANDS[1:] if not command.startswith("python -m")]
# Replacements that make a command take a second or two.
SHORTER = (
    (r"--duration 5s", "--duration 1s"),
    (r"-z 5s", "-z 1s"),
    (r"--run-time 10s", "--run-time 3s"),
    (PERF_ANALYZER_MEASURES, PERF_ANALYZER_MEASURES_SHORTLY),
)
# Output that shows that there were answers, and nothing else.
ANSWERED = {
    "wrk": r"Requests/sec: +[1-9](?!.*Non-2xx)",
    "hey": r"\[200\]\s+\d+ responses(?!.*Error distribution)",
    "locust": r"Aggregated +\d+ +0\(0\.00%\)",
    "perf_analyzer": r"throughput: [1-9]",
}


def test_every_program_of_the_page_is_known() -> None:
    assert COMMANDS[0] == SERVE
    assert {command.split()[0] for command in LOADS} == ANSWERED.keys()


@pytest.mark.timeout(700)  # perf_analyzer may be installed
@pytest.mark.parametrize("command", LOADS)
def test_a_command_gets_answers(server: RunningServer, command: str) -> None:
    program = command.split()[0]
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = dict(os.environ)
    if program == "perf_analyzer":
        installed, environment = install_perf_analyzer()
        path.insert(0, str(installed.parent))
    environment["PATH"] = os.pathsep.join(path)
    if shutil.which(program, path=environment["PATH"]) is None:
        how = f": {command_for('Locust')}" if program == "locust" else ""
        pytest.skip(f"{program} is not installed{how}")
    for printed, shorter in SHORTER:
        command = re.sub(printed, shorter, command)
    line = command.replace(ADDRESS, server.address.removeprefix("http://"))

    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert re.search(ANSWERED[program], said, re.DOTALL | re.MULTILINE), said


@pytest.mark.usefixtures("cores")
def test_the_servers_command_serves() -> None:
    taken = SERVE.removesuffix(" serve").split()
    if shutil.which(taken[0]) is None:
        pytest.skip("no taskset here")
    starter = ServerStarter()
    try:
        program = [*taken[:-1], str(Path(sys.executable).with_name("dropserve"))]
        assert starter.start(program=program).address
    finally:
        starter.end_all()
