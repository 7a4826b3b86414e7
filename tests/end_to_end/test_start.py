"""Signals while the server starts: none is lost, also by process 1 of a container."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from app.__main__ import _EXIT_TERMINATED
from tests.app.process.addresses import has_ipv6
from tests.conftest import OURS, ROOT, ServerStarter
from tests.isolation import AS_PROCESS_1, can_isolate
from tests.load.processes import children_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

_PATIENCE_SECONDS = 60.0
_END_SECONDS = 3.0


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def has(pid: int, mask: str, sig: signal.Signals) -> bool:
    """Whether a signal is in a mask of a process: `SigCgt`, caught, or `SigBlk`, kept."""
    with suppress(OSError):
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(rf"^{mask}:\s+(\w+)$", status, re.MULTILINE)
        return bool(found and int(found[1], 16) >> (sig - 1) & 1)
    return False


def has_loaded(pid: int, library: str) -> bool:
    with suppress(OSError):
        return library in Path(f"/proc/{pid}/maps").read_text()
    return False


def catches_sigterm(pid: int) -> bool:
    return has(pid, "SigCgt", signal.SIGTERM)


def loads_the_engine(pid: int) -> bool:
    return has_loaded(pid, "llvmlite")


def starts_workers(pid: int) -> bool:
    return bool(children_of(pid))


@pytest.mark.parametrize(
    ("workers", "moment"), [("1", catches_sigterm), ("1", loads_the_engine), ("2", starts_workers)]
)
def test_sigterm_ends_a_server_that_starts_at_once(
    workers: str, moment: Callable[[int], bool], servers: ServerStarter
) -> None:
    program = (*AS_PROCESS_1, *OURS) if can_isolate() else OURS
    process = servers.open("--port", "0", "--workers", workers, program=program)
    if can_isolate():
        wait_for(lambda: bool(children_of(process.pid)))
    pid = children_of(process.pid)[0] if can_isolate() else process.pid
    wait_for(lambda: moment(pid))
    is_early = not has_loaded(pid, "pydantic_core")
    began = time.monotonic()
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGTERM)
    _, errors = process.communicate(timeout=_PATIENCE_SECONDS)

    assert time.monotonic() - began < _END_SECONDS
    assert process.returncode in (0, _EXIT_TERMINATED)
    assert "Traceback" not in errors
    # The handler is there before whatever takes time is imported.
    assert is_early == (moment is catches_sigterm)


def test_sighup_while_the_server_starts_reloads_once_it_serves(servers: ServerStarter) -> None:
    """Listens on every interface, and is found healthy there."""
    host, address = ("::", "[::1]") if has_ipv6() else ("0.0.0.0", "127.0.0.1")
    process = servers.open("--port", "0", "--host", host)
    wait_for(lambda: has(process.pid, "SigBlk", signal.SIGHUP))
    process.send_signal(signal.SIGHUP)
    watchdog = threading.Timer(_PATIENCE_SECONDS, process.kill)
    watchdog.start()
    printed: list[str] = []
    assert process.stderr is not None
    for line in process.stderr:
        printed.append(line)
        if "reloaded: " in line:
            break
    watchdog.cancel()

    text = "".join(printed)
    assert "reloaded: mnist" in text
    (port,) = re.findall(rf"http://{re.escape(address)}:(\d+)/docs", text)
    asked = subprocess.run(
        [*OURS, "health", "--host", host, "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (asked.returncode, asked.stderr) == (0, "/health/ready answers 200\n")
