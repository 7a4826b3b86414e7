"""Start-up time and idle memory of a server, compared with the imports that it cannot do without.

`python -m tests.load.cold_start` starts one worker and `python -c "import numba, fastapi"` in turn.
The server's time ends with the first 200 from `/health/ready`, and its memory is read a second
later; the bare process's time ends, and its memory is read, after its imports. Ratios are medians
of the ratios within a round. A first round, which fills the system's file cache and compiles
bytecode, is not counted.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

from app.cli.machine import describe_machine
from tests.load.processes import resident_mib
from tests.load.servers import serving, without_settings

# What is wanted, as multiples of the bare process.
LONGEST, LARGEST = 2.2, 2.0
_IDLE_SECONDS = 1.0
# As with installed packages, bytecode is kept.
_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}


class Start(NamedTuple):
    """Seconds of a start, and resident memory afterwards."""

    seconds: float
    mib: float


def start_bare() -> Start:
    """The imports alone."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", "import numba, fastapi; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=without_settings() | _BYTECODE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        start = Start(time.monotonic() - began, resident_mib(process.pid))
        process.communicate(b"\n")
    return start


def start_server(idle_seconds: float = _IDLE_SECONDS) -> Start:
    """A server with one worker, from its process to its readiness."""
    began = time.monotonic()
    with serving(environ=_BYTECODE) as server:
        seconds = time.monotonic() - began
        time.sleep(idle_seconds)
        return Start(seconds, resident_mib(server.pid))


def describe(rounds: Sequence[tuple[Start, Start]]) -> Iterator[str]:
    """Medians and ratios of rounds, each of a bare start and a server's."""
    names = ("import numba, fastapi", "dropserve serve")
    for name, starts in zip(names, zip(*rounds, strict=True), strict=True):
        seconds, mib = (median(values) for values in zip(*starts, strict=True))
        yield f"{name:<22} {seconds:6.2f} s {mib:7.0f} MiB"
    times = median(server.seconds / bare.seconds for bare, server in rounds)
    memory = median(server.mib / bare.mib for bare, server in rounds)
    yield (
        f"time {times:.2f} times (wanted: {LONGEST}), memory {memory:.2f} times (wanted: {LARGEST})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rounds = [(start_bare(), start_server()) for _ in range(options.rounds + 1)][1:]
    print(f"{describe_machine()}; median of {options.rounds} rounds")
    print(*describe(rounds), sep="\n")


if __name__ == "__main__":
    main()
