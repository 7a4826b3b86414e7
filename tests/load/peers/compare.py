"""The same checkpoint in other servers, each with the MC dropout that its users would write.

`python -m tests.load.peers.compare` installs LitServe, BentoML, MLServer and plain FastAPI, each in
a virtual environment of its own, and measures them and Dropserve in one run on one machine. Every
server has one core and the load generator another. A round starts each server anew for each task
(deterministic, the textbook loop, all passes as one batch), with its own batching off and tuned,
and asks over 1, 16 and 64 connections; rounds alternate between all servers.

`--tune` tries what else a peer's batching can be set to, at 16 connections.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import httpx
import uvloop

from app.cli.machine import describe_machine
from app.load_client import Measurement, Target, percentile, post, run_closed_loop
from app.scoring.on_cores import usable_cores
from tests.load.peers.report import Cell, Key, Started, to_text
from tests.load.peers.servers import (
    OFF,
    OURS_REQUESTS,
    PEERS,
    TASKS,
    Batching,
    Peer,
    Request,
    install,
    our_command,
    our_environment,
    peer_environment,
)
from tests.load.ports import free_ports

OURS_NAME = "Dropserve"
# Which of the bodies a server must answer rightly before it is measured; number i shows i.
_ASKED_DIGIT = 7
_PATIENCE_SECONDS = 120.0
_STOP_SECONDS = 20.0
_WARM_UP_SECONDS = 1.0
_WARM_UP_CONNECTIONS = 16


class PeerError(Exception):
    """A server cannot be measured; the text is one line."""


@dataclass(frozen=True)
class Configuration:
    """One server as it is started, and what it is asked."""

    name: str
    task: str
    batching: Batching
    command: list[str]
    environment: dict[str, str]
    requests: tuple[tuple[str, Request], ...]


def configurations(
    peers: Sequence[Peer], passes: int, folder: Path, *, is_tuning: bool
) -> Iterator[Configuration]:
    """Every server in each of its ways; ours first."""
    port = free_ports(3)
    if not is_tuning:
        requests = tuple(
            (task, Request(one.path.format(passes=passes), one.bodies, one.content_type))
            for task, one in OURS_REQUESTS.items()
        )
        yield Configuration(OURS_NAME, "", OFF, our_command(port), our_environment(), requests)
    for peer in peers:
        python = install(peer)
        batchings = [OFF, *([peer.tuned] if peer.tuned else [])]
        tasks: Sequence[str] = TASKS
        if is_tuning:
            batchings, tasks = [OFF, *peer.candidates], TASKS[1:]
        for batching, task in product(batchings, tasks):
            port = free_ports(3)
            own = Path(tempfile.mkdtemp(dir=folder))
            yield Configuration(
                peer.name,
                task,
                batching,
                peer.command(python, port, own),
                peer_environment(task, passes, batching, port),
                ((task, peer.request),),
            )


@contextmanager
def running(configuration: Configuration, port: int, core: int | None) -> Iterator[Started]:
    """A server until the block ends; it has answered."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            configuration.command,
            env=configuration.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=(lambda: os.sched_setaffinity(0, {core})) if core is not None else None,
        )
        try:
            _, request = configuration.requests[-1]
            _wait_for_answer(process, f"http://127.0.0.1:{port}{request.path}", request)
            yield Started(process.pid, time.monotonic() - began)
        except PeerError as error:
            log.seek(0)
            raise PeerError(f"{error}\n{log.read().decode(errors='replace')[-2000:]}") from error
        finally:
            _stop(process)


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, request: Request) -> None:
    headers = {"content-type": request.content_type}
    deadline, said = time.monotonic() + _PATIENCE_SECONDS, ""
    with httpx.Client(trust_env=False, timeout=10) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PeerError(f"{url}: the server ended with {process.returncode}")
            with suppress(httpx.TransportError):
                answer = client.post(url, content=request.bodies[_ASKED_DIGIT], headers=headers)
                if answer.is_success:
                    _check(answer)
                    return
                said = f"{answer.status_code} {answer.text[:300]}"
            time.sleep(0.02)
    raise PeerError(f"{url} did not answer: {said}")


def _check(answer: httpx.Response) -> None:
    """It is the digit that was sent, in whatever words."""
    if str(_ASKED_DIGIT) not in json.dumps(_find(answer.json(), "digit")):
        raise PeerError(f"a wrong answer: {answer.text[:300]}")


def _find(document: object, key: str) -> object:
    """The first value under a key, or beside a name, anywhere in a document."""
    if isinstance(document, dict):
        if key in document:
            return document[key]
        if document.get("name") == key:
            return document.get("data")
    values = document.values() if isinstance(document, dict) else document
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return None
    return next((found for each in values if (found := _find(each, key)) is not None), None)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server with everything that it started."""
    family = family_of(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for pid in family_of(process.pid) | {pid for pid in family if _parent(pid) == 1}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def resident_bytes(leader: int) -> int:
    """Memory of a server's processes, what they share counted once (proportional set size)."""
    total = 0
    for pid in family_of(leader):
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def family_of(leader: int) -> set[int]:
    """A process that lives, and all that descend from it."""
    parents = {
        int(folder.name): _parent(int(folder.name))
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit()
    }
    family = {leader} & parents.keys()
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return family


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # ended meanwhile


async def _load(target: Target, connections: Sequence[int], seconds: float) -> list[Measurement]:
    await run_closed_loop(target, _WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
    return [await run_closed_loop(target, count, seconds) for count in connections]


def measure(
    configuration: Configuration,
    connections: Sequence[int],
    seconds: float,
    core: int | None,
) -> Iterator[tuple[Key, Cell]]:
    """Starts a server and asks it over so many connections, one after the other."""
    port = int(configuration.environment.get("PEER_PORT") or configuration.command[-1])
    with running(configuration, port, core) as started:
        for task, request in configuration.requests:
            url = f"http://127.0.0.1:{port}{request.path}"
            target = post(url, request.bodies, request.content_type)
            found = uvloop.run(_load(target, connections, seconds))
            memory = resident_bytes(started.pid)
            for count, one in zip(connections, found, strict=True):
                key = Key(configuration.name, str(configuration.batching), task, count)
                yield key, summarise(one, started.seconds, memory)


def summarise(one: Measurement, start_seconds: float, memory: int) -> Cell:
    """The figures of one load."""
    good = sorted(one.latencies.get("200", ()))
    failed = one.failures.total() + sum(
        len(latencies) for outcome, latencies in one.latencies.items() if outcome != "200"
    )
    p50, p99 = (percentile(good, p) * 1000 if good else float("nan") for p in (50, 99))
    return Cell(one.in_time / one.seconds, p50, p99, memory, start_seconds, failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--peers", nargs="+", default=[peer.name for peer in PEERS])
    parser.add_argument("--tune", action="store_true", help="try the settings of their batching")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if peer.name in arguments.peers]
    connections = [16] if arguments.tune else arguments.connections
    cores = usable_cores()
    server_core, own_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    if own_core is not None:
        os.sched_setaffinity(0, {own_core})
    cells: dict[Key, list[Cell]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            ways = configurations(peers, arguments.passes, Path(folder), is_tuning=arguments.tune)
            for way in ways:
                sys.stderr.write(
                    f"round {number + 1} of {arguments.rounds}: {way.name} {way.task} "
                    f"(batching {way.batching})\n"
                )
                for key, cell in measure(way, connections, arguments.seconds, server_core):
                    cells.setdefault(key, []).append(cell)
    sys.stdout.write(
        f"{describe_machine()}; server on core {server_core}, load generator on core {own_core}\n"
        f"{arguments.passes} passes; median of {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s\n\n"
    )
    sys.stdout.write(to_text(cells))


if __name__ == "__main__":
    with suppress(asyncio.CancelledError):
        main()
