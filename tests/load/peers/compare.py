"""The same checkpoint in other servers, each with the MC dropout that its users would write.

`python -m tests.load.peers.compare` installs LitServe, BentoML, MLServer and plain FastAPI, each in
a virtual environment of its own, and measures them and Dropserve in one run on one machine, our
application also on granian in place of uvicorn. Every server has one core and wrk another. A round
starts each server anew for each task (deterministic, the textbook loop, all passes as one batch),
and loads it over 1, 16 and 64 connections with images in MNIST's form, over 16 also with pictures.
Its own batching is off for one connection, and for more it is tuned. Rounds alternate between all
servers.

`--tune` tries other settings of a peer's batching, and none, at 16 connections.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import httpx

from app.cli.machine import describe_machine
from tests.load.peers.report import Cell, Comparison, Key, save, summary, table
from tests.load.peers.servers import (
    OFF,
    OUR_PATHS,
    OURS,
    PEERS,
    TASKS,
    Batching,
    Peer,
    Request,
    install,
    installed_mb,
    our_environment,
    peer_environment,
)
from tests.load.processes import assign_cores, descendants_of, on_core, proportional_mib
from tests.load.servers import Server, free_port
from tests.load.wrk import MNIST_FORM, PICTURE, Result, Wrk, require_wrk

# The body that a server must answer correctly before it is measured; body i shows the digit i.
_CHECKED_DIGIT = 7
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_WARM_UP_SECONDS = 1
_WARM_UP_CONNECTIONS = 16


@dataclass(frozen=True)
class Configuration:
    """One server as it is started, and the requests of each of its tasks and kinds of image."""

    peer: Peer
    batching: Batching
    port: int
    command: list[str]
    environment: dict[str, str]
    requests: dict[tuple[str, str], Request]


def configured(
    peer: Peer, task: str, batching: Batching, passes: int, folder: Path
) -> Configuration:
    """A server for a task; one of ours has all of its tasks."""
    port = free_port()
    if peer in OURS:
        environment = our_environment(port)
        requests = {
            (task, image): replace(one, path=path.format(passes=passes))
            for (task, path), (image, one) in product(OUR_PATHS.items(), peer.requests.items())
        }
    else:
        environment = peer_environment(task, passes, batching, port)
        requests = {(task, image): one for image, one in peer.requests.items()}
    command = peer.command(install(peer), port, Path(tempfile.mkdtemp(dir=folder)))
    return Configuration(peer, batching, port, command, environment, requests)


def configurations(
    peers: Sequence[Peer], passes: int, folder: Path, *, is_tuning: bool
) -> Iterator[Configuration]:
    """Every server with each of its settings; ours first."""
    for peer in () if is_tuning else OURS:
        yield configured(peer, "", OFF, passes, folder)
    for peer in peers:
        batchings = [OFF, *([peer.tuned] if peer.tuned else [])]
        tasks: Sequence[str] = TASKS
        if is_tuning:
            batchings, tasks = [OFF, *peer.candidates], TASKS[1:]
        for batching, task in product(batchings, tasks):
            yield configured(peer, task, batching, passes, folder)


@contextmanager
def running(configuration: Configuration, core: int | None) -> Iterator[tuple[Server, float]]:
    """Runs a server until the block ends; gives it, and the seconds to its first answer."""
    began = time.monotonic()
    with tempfile.NamedTemporaryFile() as log:
        with on_core(core):
            process = subprocess.Popen(
                configuration.command,
                env=configuration.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        server = Server(f"http://127.0.0.1:{configuration.port}", process, Path(log.name))
        try:
            request = next(iter(configuration.requests.values()))
            _wait_for_answer(process, server.address + request.path, request)
            yield server, time.monotonic() - began
        except RuntimeError as error:
            said = server.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{error}\n{said}") from error
        finally:
            _stop(process)


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, request: Request) -> None:
    headers = {"content-type": request.content_type}
    deadline, answered = time.monotonic() + _START_SECONDS, "nothing"
    with httpx.Client(trust_env=False, timeout=10) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"{url}: the server ended with {process.returncode}")
            with suppress(httpx.TransportError):
                answer = client.post(url, content=request.bodies[_CHECKED_DIGIT], headers=headers)
                if answer.is_success:
                    _check(answer)
                    return
                answered = f"{answer.status_code} {answer.text[:300]}"
            time.sleep(0.02)
    raise RuntimeError(f"{url} answered {answered}")


def _check(answer: httpx.Response) -> None:
    """Checks that the digit is the one that was sent, whatever the answer's format."""
    if str(_CHECKED_DIGIT) not in json.dumps(_find(answer.json(), "digit")):
        raise RuntimeError(f"a wrong answer: {answer.text[:300]}")


def _find(document: object, key: str) -> object:
    """The first value of a key, or the data of a tensor with that name, anywhere in a document."""
    if isinstance(document, dict):
        if key in document:
            return document[key]
        if document.get("name") == key:
            return document.get("data")
    values = document.values() if isinstance(document, dict) else document
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return None
    return next((found for each in values if (found := _find(each, key)) is not None), None)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Ends a server with every process that it started."""
    family = descendants_of(process.pid)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for pid in {process.pid, *family, *descendants_of(process.pid)}:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def measure(
    configuration: Configuration,
    points: Sequence[tuple[str, int]],
    seconds: int,
    server_core: int | None,
    wrk_core: int | None,
) -> Iterator[tuple[Key, Cell]]:
    """Starts a server and loads it with each kind of image over its number of connections."""
    with running(configuration, server_core) as (server, start_seconds):
        for task in dict.fromkeys(task for task, _ in configuration.requests):

            def load(image: str, count: int, seconds: int, task: str = task) -> Result:
                request = configuration.requests[task, image]
                url, headers = server.address + request.path, {"content-type": request.content_type}
                # MLServer's batches fail for a moment after clients that went away.
                _wait_for_answer(server.process, url, request)
                return Wrk(
                    url, count, seconds, bodies=request.bodies, headers=headers, core=wrk_core
                ).result()

            load(MNIST_FORM, _WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
            found = [load(image, count, seconds) for image, count in points]
            memory = proportional_mib(server.pid)
            for (image, count), result in zip(points, found, strict=True):
                name = configuration.peer.name
                key = Key(name, str(configuration.batching), image, task, count)
                yield key, Cell(result, memory, start_seconds)


def points_of(
    configuration: Configuration, connections: Sequence[int], *, is_tuning: bool
) -> list[tuple[str, int]]:
    """Kinds of image and connections; pictures are sent over the middle number of connections."""
    used = [
        count
        for count in connections
        if is_tuning
        or configuration.peer.tuned is None
        or (count == 1) == (configuration.batching == OFF)
    ]
    middle = sorted(connections)[len(connections) // 2]
    return [(MNIST_FORM, count) for count in used] + [(PICTURE, middle)] * (middle in used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=2, help="of one measurement")
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--peers", nargs="+", default=[peer.name for peer in PEERS])
    parser.add_argument("--tune", action="store_true", help="try other settings of their batching")
    arguments = parser.parse_args()
    peers = [peer for peer in PEERS if peer.name in arguments.peers]
    connections = [16] if arguments.tune else arguments.connections
    require_wrk()
    cores = assign_cores()
    cells: dict[Key, list[Cell]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds):
            every = configurations(peers, arguments.passes, Path(folder), is_tuning=arguments.tune)
            for one in every:
                points = points_of(one, connections, is_tuning=arguments.tune)
                if not points:
                    continue
                task = " ".join(dict.fromkeys(task for task, _ in one.requests))
                sys.stderr.write(
                    f"round {number + 1} of {arguments.rounds}: {one.peer.name} {task} "
                    f"(batching {one.batching})\n"
                )
                for key, cell in measure(one, points, arguments.seconds, *cores):
                    cells.setdefault(key, []).append(cell)
    heading = (
        f"{describe_machine()}; server on core {cores[0]}, wrk on core {cores[1]}\n"
        f"{arguments.passes} passes; median of {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s (lowest-highest)"
    )
    sizes = {peer.name: installed_mb(install(peer)) for peer in (*OURS, *peers)}
    comparison = Comparison(heading, sizes, cells)
    save(comparison)
    print(table(comparison) if arguments.tune else summary(comparison))


if __name__ == "__main__":
    main()
