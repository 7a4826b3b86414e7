"""What overload costs those who are served, those who are refused, and the server's memory.

`python -m tests.load.overload` starts a server, finds how many requests of 1000 passes it answers,
and sends ten times as many; then it looks how fast it is again. The figures are for people: on a
shared machine they vary, so the tests assert only what the answers are.
"""

import argparse
import asyncio
import os
import re
import sys
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from app.api.examples import example_pngs
from app.cli.machine import describe_machine
from app.load_client import (
    Measurement,
    Target,
    percentile,
    post,
    run_closed_loop,
    run_open_loop,
)
from app.scoring.on_cores import usable_cores
from tests.conftest import ServerStarter

PASSES = 1000
OVERLOAD, COMFORTABLE = 10, 0.8
# So few connections are never refused, and keep the server busy.
_CONNECTIONS = 3
_SAMPLING_SECONDS = 0.25
# After the overload the rate is taken in windows of this length, for so long.
_WINDOW_SECONDS, _RECOVERY_SECONDS = 0.25, 3.0

ALLOWED_OUTCOMES = frozenset({"200", "429 overloaded", "504 deadline_exceeded"})


@dataclass(frozen=True)
class Figures:
    """What one run found; times in seconds, memory in MiB.

    Attributes:
        capacity: requests answered a second, in a closed loop.
        comfortable: the open loop at `COMFORTABLE` times the capacity.
        overloaded: the open loop at `OVERLOAD` times the capacity.
        memory_before: resident memory of the server before the overload.
        memory_during: the same, sampled during the overload.
        recovery: requests a second in each window after the overload.
    """

    capacity: float
    comfortable: Measurement
    overloaded: Measurement
    memory_before: float
    memory_during: list[float]
    recovery: list[float]


async def measure(url: str, pid: int, seconds: float, *, has_own_core: bool) -> Figures:
    """Loads a server.

    Args:
        url: its address.
        pid: its process.
        seconds: how long each of the two open loops lasts.
        has_own_core: whether the load generator may keep its core busy.
    """
    target = post(f"{url}/predict/mc?passes={PASSES}&seed=1", example_pngs(), "image/png")
    await run_closed_loop(target, _CONNECTIONS, 1.0)
    trial_seconds = max(1.0, seconds / 5)
    capacity = (await run_closed_loop(target, _CONNECTIONS, trial_seconds)).in_time / trial_seconds
    comfortable = await run_open_loop(
        target, COMFORTABLE * capacity, seconds, has_own_core=has_own_core
    )
    before = resident_mib(pid)
    during: list[float] = []
    sampling = asyncio.create_task(_sample_memory(pid, during))
    overloaded = await run_open_loop(
        target, OVERLOAD * capacity, seconds, has_own_core=has_own_core
    )
    sampling.cancel()
    recovery = await _watch_recovery(target)
    return Figures(capacity, comfortable, overloaded, before, during, recovery)


async def _sample_memory(pid: int, samples: list[float]) -> None:
    while True:
        samples.append(resident_mib(pid))
        await asyncio.sleep(_SAMPLING_SECONDS)


async def _watch_recovery(target: Target) -> list[float]:
    rates = []
    for _ in range(round(_RECOVERY_SECONDS / _WINDOW_SECONDS)):
        window = await run_closed_loop(target, _CONNECTIONS, _WINDOW_SECONDS)
        rates.append(window.in_time / _WINDOW_SECONDS)
    return rates


def resident_mib(pid: int) -> float:
    """Resident memory of a process; 0 where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def describe(figures: Figures) -> Iterator[str]:
    """Lines that say how the figures stand to what is wanted."""
    comfortable, overloaded = figures.comfortable, figures.overloaded
    yield f"capacity: {figures.capacity:.0f} requests/s of {PASSES} passes"
    for name, measurement in (
        (f"{COMFORTABLE:.0%} of it", comfortable),
        (f"{OVERLOAD} times it", overloaded),
    ):
        outcomes = ", ".join(
            f"{outcome} x {len(latencies)} (p50 {_ms(latencies, 50)}, p99 {_ms(latencies, 99)})"
            for outcome, latencies in sorted(measurement.latencies.items())
        )
        failures = ", ".join(f"{name} x {n}" for name, n in measurement.failures.items())
        late = percentile(sorted(measurement.lateness), 99) * 1e3
        yield f"{name}: {outcomes}; failures: {failures or 'none'}; sent {late:.1f} ms late (p99)"
    ratio = _p99(overloaded.latencies["200"]) / _p99(comfortable.latencies["200"])
    yield f"accepted requests' p99: {ratio:.2f} times that at {COMFORTABLE:.0%} (wanted: 3)"
    served = overloaded.in_time / overloaded.seconds
    yield f"served under overload: {served:.0f} requests/s, {served / figures.capacity:.0%}"
    growth = max(figures.memory_during) - figures.memory_before
    middle = len(figures.memory_during) // 2
    second_half = max(figures.memory_during) - max(figures.memory_during[: middle + 1])
    yield (
        f"memory: {figures.memory_before:.1f} MiB before, at most {growth:+.1f} during, "
        f"{second_half:+.1f} of it in the second half"
    )
    rates = " ".join(f"{rate:.0f}" for rate in figures.recovery)
    yield f"requests/s after it, each {_WINDOW_SECONDS:g} s: {rates}"


def _p99(latencies: "array[float]") -> float:
    return percentile(sorted(latencies), 99)


def _ms(latencies: "array[float]", percent: int) -> str:
    return f"{percentile(sorted(latencies), percent) * 1e3:.1f} ms"


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keeps this process, and what it starts in the block, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each open loop")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("serve", nargs="*", help="options of serve, after --")
    arguments = parser.parse_args()
    cores = usable_cores()
    say(describe_machine())
    starter = ServerStarter()
    ratios = []
    try:
        with on_core(cores[0]):
            server = starter.start(*arguments.serve)
        with on_core(cores[-1]):
            for number in range(arguments.rounds):
                load = os.getloadavg()[0]
                say(f"round {number + 1}, {time.strftime('%H:%M:%S')}, load {load:.1f}")
                figures = uvloop.run(
                    measure(
                        server.address,
                        server.process.pid,
                        arguments.seconds,
                        has_own_core=len(cores) > 1,
                    )
                )
                for line in describe(figures):
                    say(f"  {line}")
                ratios.append(
                    _p99(figures.overloaded.latencies["200"])
                    / _p99(figures.comfortable.latencies["200"])
                )
    finally:
        starter.end_all()
    say(f"median ratio of the accepted requests' p99: {median(ratios):.2f}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
