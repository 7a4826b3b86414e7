"""Requests that stay unanswered when a server ends, loses a worker, or reloads its checkpoint.

`python -m tests.load.life_cycle` ends servers that are starting as process 1, and others under 32
connections, kills one of two workers, and reloads the checkpoint of one worker and of two, every
third time from a damaged file.
"""

import argparse
import asyncio
import os
import re
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from app.cli.machine import describe_machine
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint, save_checkpoint
from tests.isolation import AS_PROCESS_1, can_isolate
from tests.load.processes import children_of, resident_mib
from tests.load.servers import OURS, ROOT, Server, serving
from tests.load.steady_load import Answer, Seen, steady_load

CONNECTIONS = 32
# The log is read for what is said about reloads; a line for each request would only make it long.
QUIET = {"DROPSERVE_ACCESS_LOG": "off"}
DRAIN_SECONDS = 1.0
_LOADED_SECONDS = 0.5
_POLL_SECONDS = 0.02
# After these SIGTERM is sent to a server that starts.
STARTING_SECONDS = (0.3, 1.0, 2.0)
# Longer than anything that is waited for, however busy the machine.
_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class End:
    """The effect of SIGTERM.

    Attributes:
        answered: requests with a complete answer.
        cut_off: connections that were left without one, and answers other than 200.
        code: exit code.
        seconds: from the signal to the exit.
    """

    answered: int
    cut_off: int
    code: int
    seconds: float


async def end_one(server: Server) -> End:
    """Ends a server under load."""
    async with steady_load(server.address, CONNECTIONS) as seen:
        await asyncio.sleep(_LOADED_SECONDS)
        server.process.terminate()
        began = time.monotonic()
        await asyncio.to_thread(server.process.wait, _TIMEOUT_SECONDS)
        seconds = time.monotonic() - began
    return End(len(seen.answers), seen.unexpected(), server.process.returncode, seconds)


def end_starting(after: float) -> tuple[int, float]:
    """Ends a server that has been starting for so long, as process 1 where that is possible.

    Returns:
        The exit code, and the seconds from the signal to the exit.
    """
    program = (*AS_PROCESS_1, *OURS) if can_isolate() else OURS
    with subprocess.Popen(
        [*program, "serve", "--port", "0"], cwd=ROOT, stderr=subprocess.DEVNULL
    ) as process:
        time.sleep(after)
        pid = children_of(process.pid)[0] if can_isolate() else process.pid
        began = time.monotonic()
        os.kill(pid, signal.SIGTERM)
        code = process.wait(_TIMEOUT_SECONDS)
        return code, time.monotonic() - began


def describe_starts(starts: list[tuple[int, float]]) -> str:
    codes, seconds = zip(*starts, strict=True)
    return (
        f"SIGTERM to process 1 after {', '.join(map(str, STARTING_SECONDS))} s: exit codes "
        f"{sorted(set(codes))} (wanted: 0 or 143), after at most {max(seconds):.2f} s (wanted: 3)"
    )


@dataclass(frozen=True)
class Kill:
    """The effect of SIGKILL on a worker.

    Attributes:
        own: failures on connections that the killed worker held.
        foreign: other failures, and answers other than 200.
        seconds: until a new worker answered.
    """

    own: int
    foreign: int
    seconds: float


async def kill_one(server: Server, seen: Seen) -> Kill:
    """Kills one of two workers under load."""
    known = set(workers_of(server.process.pid))
    victim = min(known)
    failed_before, answered_before = len(seen.failures), len(seen.answers)
    # Stopped first, so that its connections cannot change before it is killed.
    os.kill(victim, signal.SIGSTOP)
    held = ports_of(victim)
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    while not await has_answered(server, known):
        assert time.monotonic() < began + _TIMEOUT_SECONDS, "no new worker"
        await asyncio.sleep(_POLL_SECONDS)
    seconds = time.monotonic() - began
    await asyncio.sleep(_LOADED_SECONDS)
    failures = [port for port, _ in seen.failures[failed_before:]]
    refused = sum(answer.status != 200 for answer in seen.answers[answered_before:])
    own = sum(port in held for port in failures)
    return Kill(own, len(failures) - own + refused, seconds)


async def has_answered(server: Server, known: set[int]) -> bool:
    """Whether a worker that is not known answers a request."""
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: here\r\n\r\n")
        head = await reader.read(4096)
        own_port = writer.get_extra_info("sockname")[1]
        fresh = set(workers_of(server.process.pid)) - known
        return b" 200 " in head and any(own_port in ports_of(worker) for worker in fresh)
    except OSError:
        return False  # the killed worker had accepted the connection
    finally:
        writer.close()


def workers_of(supervisor: int) -> list[int]:
    """The workers: children of the process that forks them, which is the supervisor's child."""
    return [worker for child in children_of(supervisor) for worker in children_of(child)]


def ports_of(pid: int) -> set[int]:
    """The peers' ports of a process's TCP connections."""
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
    """The effect of SIGHUP.

    Attributes:
        answered: requests with a complete answer.
        failed: connections that were left without one, and answers other than 200.
        taken: reloads of a good file.
        refused: reloads of a damaged one.
        wrong: answers of a version that was not live.
        memory: resident MiB of all workers, after each reload.
    """

    answered: int
    failed: int
    taken: int
    refused: int
    wrong: int
    memory: list[float]


@dataclass(frozen=True)
class Versions:
    """Two checkpoints, and the file that is served, to which either of them is written."""

    names: list[str]
    contents: list[bytes]
    served: Path


def two_versions(folder: Path) -> Versions:
    """The default checkpoint, which is served first, and a copy with another version."""
    first = load_checkpoint(DEFAULT_CHECKPOINT)
    other = replace(first, metrics={**first.metrics, "reload": 1})
    paths = [folder / "first", folder / "other"]
    names = [save_checkpoint(path, one) for path, one in zip(paths, (first, other), strict=True)]
    contents = [path.read_bytes() for path in paths]
    served = folder / "served.safetensors"
    served.write_bytes(contents[0])
    return Versions(names, contents, served)


async def reload(server: Server, times: int, versions: Versions) -> Reloads:
    """Reloads a server under load, every third time from a damaged file."""
    live, spans = 0, [(versions.names[0], 0.0)]
    taken = refused = 0
    ends: dict[int, float] = {}
    workers = workers_of(server.pid) or [server.pid]
    memory: list[float] = []
    async with steady_load(server.address, CONNECTIONS) as seen:
        await asyncio.sleep(_LOADED_SECONDS)
        for number in range(1, times + 1):
            is_damaged = number % 3 == 0
            content = versions.contents[1 - live]
            write_whole(versions.served, content[: len(content) // 2] if is_damaged else content)
            logged, began = len(server.log.read_text()), time.monotonic()
            server.process.send_signal(signal.SIGHUP)
            if is_damaged:
                await _wait_for_log(server, logged, "is not reloaded.*", 1)
                refused += 1
            else:
                live = 1 - live
                await _wait_for_log(
                    server, logged, f"reloaded: .* {versions.names[live]}", len(workers)
                )
                ends[len(spans) - 1] = time.monotonic()
                spans.append((versions.names[live], began))
                taken += 1
            await asyncio.sleep(0.1)
            memory.append(sum(map(resident_mib, workers)))
    intervals = [
        (version, began, ends.get(number, float("inf")))
        for number, (version, began) in enumerate(spans)
    ]
    wrong = sum(not _was_live(answer, intervals) for answer in seen.answers)
    return Reloads(len(seen.answers), seen.unexpected(), taken, refused, wrong, memory)


async def _wait_for_log(server: Server, start: int, pattern: str, times: int) -> None:
    """Waits until the log from a position on matches a pattern a number of times."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while len(re.findall(pattern, server.log.read_text()[start:])) < times:
        assert time.monotonic() < deadline, f"not in the log: {pattern}"
        await asyncio.sleep(_POLL_SECONDS)


def write_whole(path: Path, content: bytes) -> None:
    """Replaces a file at once: readers see either the old content or the new."""
    path.with_name("next").write_bytes(content)
    path.with_name("next").replace(path)


def _was_live(answer: Answer, intervals: list[tuple[str, float, float]]) -> bool:
    return any(
        answer.version == version and answer.ended >= began and answer.began <= ended
        for version, began, ended in intervals
    )


def describe_reloads(reloads: Reloads) -> str:
    half = max(reloads.memory[: len(reloads.memory) // 2 + 1])
    return (
        f"SIGHUP, {reloads.taken + reloads.refused} times, {reloads.refused} damaged: "
        f"{reloads.answered} answers, {reloads.failed} failures, {reloads.wrong} of a version that "
        f"was not live; {half:.0f} MiB at most in the first half, "
        f"{max(reloads.memory) - half:+.0f} in the second"
    )


def end_servers(times: int) -> list[End]:
    """Ends servers with one and two workers in turn, which drain for `DRAIN_SECONDS`."""
    ends = []
    for number in range(times):
        environ = QUIET | {"DROPSERVE_DRAIN_SECONDS": str(DRAIN_SECONDS)}
        with serving("--workers", str(1 + number % 2), environ=environ) as server:
            ends.append(uvloop.run(end_one(server)))
    return ends


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


async def kill_workers(server: Server, times: int) -> tuple[list[Kill], int]:
    """Kills workers of one server, one after the other; also returns the number of answers."""
    async with steady_load(server.address, CONNECTIONS) as seen:
        await asyncio.sleep(_LOADED_SECONDS)
        return [await kill_one(server, seen) for _ in range(times)], len(seen.answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ends", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--reloads", type=int, default=100)
    options = parser.parse_args()
    print(describe_machine())
    print(describe_starts([end_starting(seconds) for seconds in STARTING_SECONDS]), flush=True)
    print(describe_ends(end_servers(options.ends)), flush=True)
    with serving("--workers", "2", environ=QUIET) as server:
        print(describe_kills(*uvloop.run(kill_workers(server, options.kills))), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        versions = two_versions(Path(folder))
        # A network that was replaced stays for as long as a request may take.
        checkpoint = ("--checkpoint", str(versions.served), "--max-timeout-ms", "2000")
        for workers in ("1", "2"):
            write_whole(versions.served, versions.contents[0])
            with serving("--workers", workers, *checkpoint, environ=QUIET) as server:
                print(describe_reloads(uvloop.run(reload(server, options.reloads, versions))))


if __name__ == "__main__":
    main()
