"""The end, a killed worker and a new checkpoint, all under load: who is left without an answer?

`python -m tests.load.life_cycle` ends servers under 32 connections, kills one of two workers, and
reloads the checkpoint, every third time from a damaged file.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from app.cli.machine import describe_machine
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, save_checkpoint
from tests.conftest import RunningServer, ServerStarter
from tests.load.steady_load import Answer, Seen, steady_load

CONNECTIONS = 32
DRAIN_SECONDS = 1.0
_LOADED_SECONDS = 0.5
_LOOKING_SECONDS = 0.02
# Nothing that is waited for takes longer, however busy the machine.
_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class End:
    """What SIGTERM did: answers, connections without one, the exit code, seconds to the exit."""

    answered: int
    cut_off: int
    code: int
    seconds: float


async def end_one(server: RunningServer) -> End:
    """Ends a server under load."""
    async with steady_load(server.address, CONNECTIONS) as seen:
        await asyncio.sleep(_LOADED_SECONDS)
        server.process.terminate()
        began = time.monotonic()
        await asyncio.to_thread(server.process.communicate, None, _PATIENCE_SECONDS)
        seconds = time.monotonic() - began
    return End(len(seen.answers), seen.unexpected(), server.process.returncode, seconds)


@dataclass(frozen=True)
class Kill:
    """What kill -9 did.

    Attributes:
        own: failures on connections that the killed worker held.
        foreign: other failures, and answers other than 200.
        seconds: until another worker in its place answered.
    """

    own: int
    foreign: int
    seconds: float


async def kill_one(server: RunningServer, seen: Seen) -> Kill:
    """Kills one of two workers of a server that is under load."""
    known = set(workers_of(server.process.pid))
    victim = min(known)
    failed_before, answered_before = len(seen.failures), len(seen.answers)
    # Stopped first, so that what it holds cannot change before it is killed.
    os.kill(victim, signal.SIGSTOP)
    held = ports_of(victim)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    while not await _has_answered(server, known):
        assert time.monotonic() < began + _PATIENCE_SECONDS, "no other worker came"
        await asyncio.sleep(_LOOKING_SECONDS)
    seconds = time.monotonic() - began
    await asyncio.sleep(_LOADED_SECONDS)
    failures = [port for port, _ in seen.failures[failed_before:]]
    refused = sum(answer.status != 200 for answer in seen.answers[answered_before:])
    own = sum(port in held for port in failures)
    return Kill(own, len(failures) - own + refused, seconds)


async def _has_answered(server: RunningServer, known: set[int]) -> bool:
    """Whether a worker that is not known answers when it is asked."""
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: here\r\n\r\n")
        head = await reader.read(4096)
        own_port = writer.get_extra_info("sockname")[1]
        fresh = set(workers_of(server.process.pid)) - known
        return b" 200 " in head and any(own_port in ports_of(worker) for worker in fresh)
    except OSError:
        return False  # accepted by the one that was killed
    finally:
        writer.close()


def workers_of(supervisor: int) -> list[int]:
    """Processes of the workers: the children of the process that forks them."""
    return [worker for child in _children(supervisor) for worker in _children(child)]


def _children(pid: int) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ports_of(pid: int) -> set[int]:
    """The other ends' ports of a process's TCP connections."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(entry.readlink().name.removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue  # closed meanwhile
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].split(":")[1], 16) for row in rows if row[9] in inodes}


@dataclass(frozen=True)
class Reloads:
    """What reloads did; `wrong` counts answers of a version that was not live."""

    answered: int
    failed: int
    taken: int
    refused: int
    wrong: int


class _Log:
    """Lines that a server prints, as they come."""

    def __init__(self, server: RunningServer) -> None:
        self.lines: list[str] = []
        self._server = server
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._server.process.stderr is not None
        self.lines.extend(iter(self._server.process.stderr.readline, ""))

    async def has(self, pattern: str, times: int, since: int) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while sum(bool(re.search(pattern, line)) for line in self.lines[since:]) < times:
            assert time.monotonic() < deadline, f"not said: {pattern}"
            await asyncio.sleep(_LOOKING_SECONDS)


@dataclass(frozen=True)
class Versions:
    """Two checkpoints, and the file that is served: whichever of them is written to it."""

    names: list[str]
    contents: list[bytes]
    served: Path


def two_versions(folder: Path) -> Versions:
    """The default checkpoint, which is served first, and another."""
    first = load_checkpoint(DEFAULT_CHECKPOINT)
    other = replace(first, metrics={**first.metrics, "reload": 1})
    paths = [folder / "first", folder / "other"]
    names = [save_checkpoint(path, one) for path, one in zip(paths, (first, other), strict=True)]
    contents = [path.read_bytes() for path in paths]
    served = folder / "served.safetensors"
    served.write_bytes(contents[0])
    return Versions(names, contents, served)


async def reload(server: RunningServer, times: int, versions: Versions) -> Reloads:
    """Reloads two workers under load, every third time from a damaged file."""
    log = _Log(server)
    live, spans = 0, [(versions.names[0], 0.0)]
    taken = refused = 0
    ends: dict[int, float] = {}
    async with steady_load(server.address, CONNECTIONS) as seen:
        await asyncio.sleep(_LOADED_SECONDS)
        for number in range(1, times + 1):
            is_damaged = number % 3 == 0
            content = versions.contents[1 - live]
            write_whole(versions.served, content[: len(content) // 2] if is_damaged else content)
            said, began = len(log.lines), time.monotonic()
            server.process.send_signal(signal.SIGHUP)
            if is_damaged:
                await log.has("is not reloaded.*", 1, said)
                refused += 1
            else:
                live = 1 - live
                await log.has(f"reloaded: .* {versions.names[live]}", 2, said)
                ends[len(spans) - 1] = time.monotonic()
                spans.append((versions.names[live], began))
                taken += 1
            await asyncio.sleep(0.1)
    intervals = [
        (version, began, ends.get(number, float("inf")))
        for number, (version, began) in enumerate(spans)
    ]
    wrong = sum(not _was_live(answer, intervals) for answer in seen.answers)
    return Reloads(len(seen.answers), seen.unexpected(), taken, refused, wrong)


def write_whole(path: Path, content: bytes) -> None:
    """Readers see the old content or the new."""
    path.with_name("next").write_bytes(content)
    path.with_name("next").replace(path)


def _was_live(answer: Answer, intervals: list[tuple[str, float, float]]) -> bool:
    return any(
        answer.version == version and answer.ended >= began and answer.began <= ended
        for version, began, ended in intervals
    )


def describe_reloads(reloads: Reloads) -> str:
    return (
        f"SIGHUP, {reloads.taken + reloads.refused} times, {reloads.refused} damaged: "
        f"{reloads.answered} answers, {reloads.failed} failures, {reloads.wrong} of a version that "
        f"was not live"
    )


def start_draining(starter: ServerStarter, workers: int) -> RunningServer:
    """A server that serves on for `DRAIN_SECONDS`."""
    environ = {"DROPSERVE_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    return starter.start("--workers", str(workers), environ=environ)


def describe_ends(ends: list[End]) -> str:
    late = max(end.seconds for end in ends) - DRAIN_SECONDS
    return (
        f"SIGTERM, {len(ends)} times: {sum(end.answered for end in ends)} answers, "
        f"{sum(end.cut_off for end in ends)} connections without a complete one; exit codes "
        f"{sorted({end.code for end in ends})}; at most {late:.2f} s after the drain (wanted: 2)"
    )


def describe_kills(kills: list[Kill], answered: int) -> str:
    return (
        f"kill -9, {len(kills)} times: {answered} answers; {sum(kill.own for kill in kills)} of "
        f"the killed workers' own requests failed, {sum(kill.foreign for kill in kills)} others; "
        f"full service after at most {max(kill.seconds for kill in kills):.2f} s (wanted: 5)"
    )


async def measure_kills(server: RunningServer, times: int) -> tuple[list[Kill], int]:
    """Kills workers of one server, one after the other; also how much it answered."""
    _Log(server)  # so that it never waits for a reader
    async with steady_load(server.address, CONNECTIONS) as seen:
        await asyncio.sleep(_LOADED_SECONDS)
        return [await kill_one(server, seen) for _ in range(times)], len(seen.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--reloads", type=int, default=30)
    arguments = parser.parse_args()
    say(describe_machine())
    starter = ServerStarter()
    try:
        ends = [
            uvloop.run(end_one(start_draining(starter, workers=1 + number % 2)))
            for number in range(arguments.ends)
        ]
        say(describe_ends(ends))
        two = starter.start("--workers", "2")
        say(describe_kills(*uvloop.run(measure_kills(two, arguments.kills))))
        with tempfile.TemporaryDirectory() as folder:
            versions = two_versions(Path(folder))
            two = starter.start("--workers", "2", "--checkpoint", str(versions.served))
            say(describe_reloads(uvloop.run(reload(two, arguments.reloads, versions))))
            two.process.terminate()
            two.process.wait(_PATIENCE_SECONDS)
    finally:
        starter.end_all()


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
