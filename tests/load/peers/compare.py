"""The same checkpoint in other servers, each with the MC dropout that its users would write.

`python -m tests.load.peers.compare` installs LitServe, BentoML, MLServer and plain FastAPI, each in
a virtual environment of its own, and measures them and Dropserve in one run on one machine. Every
server has one core and wrk another. A round starts each server anew for each task (deterministic,
the textbook loop, all passes as one batch), with its own batching off and tuned, and loads it over
1, 16 and 64 connections; rounds alternate between all servers.

`--tune` tries other settings of a peer's batching, at 16 connections.
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
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import httpx

from app.cli.machine import describe_machine
from tests.load.peers.report import Cell, Key, to_text
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
from tests.load.processes import assign_cores, descendants_of, on_core
from tests.load.servers import free_port
from tests.load.wrk import Result, Wrk, require_wrk

OURS_NAME = "Dropserve"
# The body that a server must answer correctly before it is measured; body i shows the digit i.
_CHECKED_DIGIT = 7
_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_WARM_UP_SECONDS = 1
_WARM_UP_CONNECTIONS = 16


@dataclass(frozen=True)
class Configuration:
    """One server as it is started, and the requests of each of its tasks."""

    name: str
    task: str
    batching: Batching
    command: list[str]
    environment: dict[str, str]
    requests: tuple[tuple[str, Request], ...]


def configurations(
    peers: Sequence[Peer], passes: int, folder: Path, *, is_tuning: bool
) -> Iterator[Configuration]:
    """Every server with each of its settings; ours first."""
    if not is_tuning:
        port = free_port()
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
            port = free_port()
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
def running(
    configuration: Configuration, port: int, core: int | None
) -> Iterator[tuple[int, float]]:
    """Runs a server until the block ends; gives its process, and the seconds to its answer."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        with on_core(core):
            process = subprocess.Popen(
                configuration.command,
                env=configuration.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            _, request = configuration.requests[-1]
            _wait_for_answer(process, f"http://127.0.0.1:{port}{request.path}", request)
            yield process.pid, time.monotonic() - began
        except RuntimeError as error:
            log.seek(0)
            raise RuntimeError(f"{error}\n{log.read().decode(errors='replace')[-2000:]}") from error
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


def proportional_bytes(pid: int) -> int:
    """Memory of a server's processes, with what they share counted once (PSS)."""
    total = 0
    for each in (pid, *descendants_of(pid)):
        with suppress(OSError):
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def measure(
    configuration: Configuration,
    connections: Sequence[int],
    seconds: int,
    server_core: int | None,
    wrk_core: int | None,
) -> Iterator[tuple[Key, Cell]]:
    """Starts a server and loads it over each number of connections, one after the other."""
    port = int(configuration.environment.get("PEER_PORT") or configuration.command[-1])
    with running(configuration, port, server_core) as (pid, start_seconds):
        for task, request in configuration.requests:

            def load(count: int, seconds: int, request: Request = request) -> Result:
                url = f"http://127.0.0.1:{port}{request.path}"
                headers = {"content-type": request.content_type}
                return Wrk(
                    url, count, seconds, bodies=request.bodies, headers=headers, core=wrk_core
                ).result()

            load(_WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
            found = [load(count, seconds) for count in connections]
            memory = proportional_bytes(pid)
            for count, result in zip(connections, found, strict=True):
                key = Key(configuration.name, str(configuration.batching), task, count)
                yield key, Cell(result, memory, start_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of one measurement")
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
                sys.stderr.write(
                    f"round {number + 1} of {arguments.rounds}: {one.name} {one.task} "
                    f"(batching {one.batching})\n"
                )
                for key, cell in measure(one, connections, arguments.seconds, *cores):
                    cells.setdefault(key, []).append(cell)
    sys.stdout.write(
        f"{describe_machine()}; server on core {cores[0]}, wrk on core {cores[1]}\n"
        f"{arguments.passes} passes; median of {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s\n\n"
    )
    sys.stdout.write(to_text(cells))


if __name__ == "__main__":
    main()
