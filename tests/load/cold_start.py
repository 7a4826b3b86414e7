"""How soon a server answers, and what an idle one takes, beside the imports it cannot do without.

`python -m tests.load.cold_start` starts one worker and `python -c "import torch, fastapi"` in turn.
The server's time ends with the first 200 from `/health/ready`, and its memory is read a second
later; the bare process's time is that of its whole life, and its memory is read at its end. Ratios
are medians of the rounds' own. A first round, which fills the system's file cache and compiles
bytecode, is not counted.
"""

import argparse
import http.client
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from app.cli.machine import describe_machine
from tests.conftest import OURS, ROOT
from tests.load.ports import free_port

MOST_TIMES, MOST_MEMORY = 1.5, 1.25
_BARE = "import torch, fastapi; print(open('/proc/self/status').read())"
_LOOKING_SECONDS = 0.005
_IDLE_SECONDS = 1.0
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Start:
    """One start: seconds, and resident bytes afterwards."""

    seconds: float
    resident: int


def start_bare() -> Start:
    """The imports alone."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _BARE],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    )
    return Start(time.monotonic() - began, _resident(done.stdout))


def start_server() -> Start:
    """A server with one worker, from its process to its readiness."""
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [*OURS, "serve", "--port", str(port)],
        cwd=ROOT,
        env=_environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _is_ready(port):
            if process.poll() is not None or time.monotonic() > began + _PATIENCE_SECONDS:
                raise RuntimeError("the server did not get ready")
            time.sleep(_LOOKING_SECONDS)
        seconds = time.monotonic() - began
        time.sleep(_IDLE_SECONDS)
        return Start(seconds, _resident(Path(f"/proc/{process.pid}/status").read_text()))
    finally:
        process.kill()
        process.wait()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _environment() -> dict[str, str]:
    """As an operator's: no settings, and bytecode is kept, as installed packages have it."""
    left_out = ("DROPSERVE_", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if not name.startswith(left_out)}


def _resident(status: str) -> int:
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    rounds = [(start_bare(), start_server()) for _ in range(arguments.rounds + 1)][1:]
    sys.stdout.write(f"{describe_machine()}; median of {arguments.rounds} rounds\n")
    names = ("import torch, fastapi", "dropserve serve")
    for name, starts in zip(names, zip(*rounds, strict=True), strict=True):
        seconds = median(start.seconds for start in starts)
        resident = median(start.resident for start in starts)
        sys.stdout.write(f"{name:<22} {seconds:6.2f} s {resident / 2**20:7.0f} MiB\n")
    times = median(server.seconds / bare.seconds for bare, server in rounds)
    memory = median(server.resident / bare.resident for bare, server in rounds)
    sys.stdout.write(
        f"time {times:.2f} times (wanted: {MOST_TIMES}), "
        f"memory {memory:.2f} times (wanted: {MOST_MEMORY})\n"
    )


if __name__ == "__main__":
    main()
