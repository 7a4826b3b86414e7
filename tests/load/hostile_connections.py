"""What hostile connections cost a polite client, and whether memory is freed after them.

`python -m tests.load.hostile_connections` starts a server on one core. On the other a polite client
sends one request after the other, first alone and then while another process holds 500 idle and
dribbling connections and 500 half bodies, and sends 1,000 uploads that are too large, headers of
10,000 lines, pipelined requests with garbage behind them, and thousands of pipelined requests whose
answers it does not read. Then 800 half bodies are held, and 3,000, each renewed as soon as it has
ended; meanwhile health is asked on new connections. The tests assert only the answers: on a shared
machine the latencies vary. The exit code is 1 after an unexpected answer, if the polite client's
p99 grows to more than three times, or if health answers later than after 250 ms.
"""

import argparse
import asyncio
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from multiprocessing.connection import Connection
from random import Random

import numpy as np
import uvloop

from app.api.examples import example_pngs
from app.cli.machine import describe_machine
from tests.load.processes import assign_cores, on_core, resident_mib
from tests.load.servers import serving

LARGEST_RATIO = 3.0
HEALTH_SECONDS = 0.25
HALVES = (800, 3000)
_PAUSE_SECONDS = 0.003
_TIMEOUT_SECONDS = 30.0
_DRIBBLE_SECONDS = 0.5
_PIPELINE_SECONDS = 1.0
_MIB = 2**20
# The hostile process shares a core with the polite client, which must not wait for it.
_NICENESS = 10

_IDLE, _HALF = "idle or dribbling", "half body"
_UPLOAD, _LINES, _GARBAGE = "upload", "10,000 lines", "garbage"
_PIPELINED = "pipelined"
# Statuses. A connection may also end without one, where this side was too slow to send or to read.
EXPECTED = {
    # Those that are on their way at a time have a limited memory.
    _UPLOAD: {"413", "429"},
    _LINES: {"431"},
    # The requests before the garbage have their answers.
    _GARBAGE: {"200"},
    _PIPELINED: {"200"},
    _IDLE: {"408", "429"},
    _HALF: {"408", "429"},
}


@dataclass(frozen=True)
class Attack:
    """The number of connections of each kind, spread evenly over the duration."""

    seconds: float = 40.0
    connections: int = 500
    halves: int = 500
    uploads: int = 1000
    heads: int = 200
    garbage: int = 200
    pipelined: int = 20


@dataclass
class Figures:
    """The result of a run; times in seconds, memory in MiB.

    Attributes:
        quiet: the polite client's latencies without the attack.
        attacked: the same during the attack.
        health: how long `/health/ready` took during it, on a new connection each time.
        refused: statuses of the polite client's requests other than 200, and those of health.
        outcomes: statuses of each kind of hostile connection, or how it ended without one.
        memory: resident before the attack, at most during it, and after it.
    """

    quiet: list[float] = field(default_factory=list)
    attacked: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    memory: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def unexpected(self) -> dict[str, set[str]]:
        """Statuses that a hostile connection of the kind should not have."""
        found = {
            kind: {outcome for outcome in seen if outcome.isdecimal()} - EXPECTED[kind]
            for kind, seen in self.outcomes.items()
        }
        return {kind: statuses for kind, statuses in found.items() if statuses}

    def ratio(self) -> float:
        """The polite client's p99 during the attack, over that without it."""
        attacked, quiet = (np.percentile(each, 99) for each in (self.attacked, self.quiet))
        return float(attacked / quiet)


def measure(address: str, pid: int, quiet_seconds: float, attack: Attack) -> Figures:
    """Runs the polite client alone, during the attack, and alone again.

    Args:
        address: of the server.
        pid: its process.
        quiet_seconds: duration of each run without the attack.
        attack: what happens in between.
    """
    figures = Figures()

    def is_quiet(began: float) -> bool:
        return time.monotonic() < began + quiet_seconds

    _send_politely(address, is_quiet, figures.quiet, figures)
    before = peak = resident_mib(pid)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    hostile = context.Process(target=_run_attack, args=(address, attack, theirs))
    hostile.start()
    ours.recv()  # the attack has begun

    def is_attacked(_: float) -> bool:
        nonlocal peak
        peak = max(peak, resident_mib(pid))
        figures.health.append(_ask_for_health(address, figures))
        return not ours.poll()

    _send_politely(address, is_attacked, figures.attacked, figures)
    figures.outcomes = ours.recv()
    hostile.join()
    _send_politely(address, is_quiet, [], figures)
    figures.memory = (before, peak, resident_mib(pid))
    return figures


def _ask_for_health(address: str, figures: Figures) -> float:
    """Seconds until the answer."""
    began = time.perf_counter()
    connection = HTTPConnection(address.removeprefix("http://"), timeout=_TIMEOUT_SECONDS)
    connection.request("GET", "/health/ready")
    status = connection.getresponse().status
    connection.close()
    if status != 200:
        figures.refused[f"health {status}"] += 1
    return time.perf_counter() - began


def _send_politely(
    address: str,
    goes_on: Callable[[float], bool],
    latencies: list[float],
    figures: Figures,
) -> None:
    """One request after the other over a kept connection, with pauses."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=_TIMEOUT_SECONDS)
    body, began = example_pngs()[7], time.monotonic()
    while goes_on(began):
        started = time.perf_counter()
        connection.request("POST", "/predict", body, {"content-type": "image/png"})
        response = connection.getresponse()
        response.read()
        latencies.append(time.perf_counter() - started)
        if response.status != 200:
            figures.refused[str(response.status)] += 1
        time.sleep(_PAUSE_SECONDS)
    connection.close()


def _run_attack(address: str, attack: Attack, pipe: Connection) -> None:
    """In a process of its own."""
    os.nice(_NICENESS)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    uvloop.run(_attack(address, attack, pipe))


async def _attack(address: str, attack: Attack, pipe: Connection) -> None:
    host, port = address.removeprefix("http://").split(":")
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in EXPECTED}

    async def once(kind: str, act: Callable[..., Awaitable[None]], *arguments: object) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(host, int(port))
                try:
                    # A connection that is refused early cannot send the rest, but has an answer.
                    with suppress(ConnectionError, RuntimeError):  # uvloop's, of a closed one
                        await act(writer, *arguments)
                    head = await reader.read(16)
                    outcomes[kind][head.split()[1].decode() if head else "ended"] += 1
                    with suppress(ConnectionError):
                        while await reader.read(2**16):
                            pass
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError) as error:
            outcomes[kind][type(error).__name__] += 1

    async def spread(kind: str, count: int, act: Callable[..., Awaitable[None]]) -> None:
        running = []
        for number in range(count):
            running.append(asyncio.create_task(once(kind, act, number)))
            await asyncio.sleep(attack.seconds / count)
        await asyncio.gather(*running)

    async def hold(kind: str, number: int, until: float) -> None:
        await asyncio.sleep(Random(number).random() * 2)
        act = _send_half if kind == _HALF else _dribble if number % 2 else _say_nothing
        while time.monotonic() < until:
            await once(kind, act, until)

    pipe.send("begun")
    until = time.monotonic() + attack.seconds
    await asyncio.gather(
        *(hold(_IDLE, number, until) for number in range(attack.connections)),
        *(hold(_HALF, number, until) for number in range(attack.halves)),
        spread(_UPLOAD, attack.uploads, _upload),
        spread(_LINES, attack.heads, _send_lines),
        spread(_GARBAGE, attack.garbage, _send_garbage),
        spread(_PIPELINED, attack.pipelined, _pipeline),
    )
    pipe.send(outcomes)


async def _say_nothing(writer: asyncio.StreamWriter, until: float) -> None:
    return None


async def _dribble(writer: asyncio.StreamWriter, until: float) -> None:
    writer.write(b"POST /predict HTTP/1.1\r\nX-A: ")
    while not writer.transport.is_closing() and time.monotonic() < until + _TIMEOUT_SECONDS / 2:
        await asyncio.sleep(_DRIBBLE_SECONDS)
        writer.write(b"a")


async def _send_half(writer: asyncio.StreamWriter, until: float) -> None:
    writer.write(b"POST /predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf")


async def _upload(writer: asyncio.StreamWriter, number: int) -> None:
    """Sends more than the server accepts, with its length declared or in chunks."""
    piece = bytes(256 * 1024)
    if number % 2:
        writer.write(b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (12 * _MIB))
    else:
        writer.write(b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
    for _ in range(48):
        writer.write(piece)
        await writer.drain()
    if number % 2 == 0:
        writer.write(b"0\r\n\r\n")


async def _send_lines(writer: asyncio.StreamWriter, number: int) -> None:
    lines = b"".join(b"X-%d: a\r\n" % line for line in range(10_000))
    writer.write(b"GET / HTTP/1.1\r\n" + lines + b"\r\n")


async def _send_garbage(writer: asyncio.StreamWriter, number: int) -> None:
    garbage = Random(number).randbytes(1000)
    writer.write(b"GET /health/live HTTP/1.1\r\nHost: here\r\n\r\n" * 20 + b"\x00" + garbage)


async def _pipeline(writer: asyncio.StreamWriter, number: int) -> None:
    last = b"GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n"
    writer.write(b"GET /health/live HTTP/1.1\r\n\r\n" * 7000 + last)
    await asyncio.sleep(_PIPELINE_SECONDS)  # before anything is read


def describe(figures: Figures) -> list[str]:
    lines = [f"{kind}: {dict(seen)}" for kind, seen in figures.outcomes.items()]
    for name, latencies in (("quiet", figures.quiet), ("attacked", figures.attacked)):
        p50, p99, most = np.percentile(latencies, (50, 99, 100)) * 1e3
        lines.append(
            f"polite client, {name}: {len(latencies)} answers, p50 {p50:.2f} ms, p99 {p99:.2f} ms, "
            f"at most {most:.1f} ms"
        )
    before, peak, after = figures.memory
    lines += [
        f"its p99: {figures.ratio():.2f} times the quiet one (wanted: {LARGEST_RATIO:g}); "
        f"refused: {dict(figures.refused) or 'none'}",
        f"memory: {before:.1f} MiB before, at most {peak - before:+.1f} during, "
        f"{after - before:+.1f} after",
        f"unexpected: {figures.unexpected() or 'none'}",
        f"health: {len(figures.health)} answers, p99 {np.percentile(figures.health, 99):.3f} s, at "
        f"most {max(figures.health):.3f} s (wanted: {HEALTH_SECONDS:g})",
    ]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quiet-seconds", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=Attack.seconds, help="of the attack")
    parser.add_argument("--rounds", type=int, default=3, help="in which memory must not grow")
    options = parser.parse_args()
    server_core, own_core = assign_cores()
    print(describe_machine())
    is_bad = False
    with serving("--log-level", "error", core=server_core) as server, on_core(own_core):
        for number in range(options.rounds):
            print(f"round {number + 1}")
            attack = Attack(seconds=options.seconds)
            figures = measure(server.address, server.pid, options.quiet_seconds, attack)
            for line in describe(figures):
                print(f"  {line}", flush=True)
            is_bad |= bool(figures.unexpected() or figures.refused)
            is_bad |= figures.ratio() > LARGEST_RATIO
        for halves in HALVES:
            print(f"{halves} half bodies")
            attack = Attack(options.seconds, 0, halves, 0, 0, 0, 0)
            figures = measure(server.address, server.pid, options.quiet_seconds, attack)
            print(*describe(figures), sep="\n  ", flush=True)
            is_bad |= bool(figures.refused) or max(figures.health) > HEALTH_SECONDS
    sys.exit(1 if is_bad else 0)


if __name__ == "__main__":
    main()
