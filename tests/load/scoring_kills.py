"""Runs of `dropserve score` in which something is killed, compared with an undisturbed one."""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.app.scoring.inputs import PIXELS, write_idx
from tests.load.processes import descendants_of
from tests.load.servers import OURS

_ROWS, _PASSES, _PARTS = 30_000, 100, 59
_STARTING_SECONDS = 10.0
_POLL_SECONDS = 0.02
_MOST_SECONDS = 300.0


def kills(arguments: argparse.Namespace) -> None:
    """Kills the command, an actor and a local Ray at random moments."""
    kinds: Sequence[tuple[str, Callable[[int], Sequence[int] | None], Sequence[str]]] = (
        ("the command", lambda pid: [pid], ()),
        ("an actor", _an_actor, ("--ray", "local")),
        ("Ray", lambda pid: descendants_of(pid) or None, ("--ray", "local")),
        ("the command on Ray", lambda pid: [pid], ("--ray", "local")),
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = _Run(folder, "plain", ())
        plain.run()
        for what, victims, options in kinds:
            for number in range(1, arguments.times + 1):
                run = _Run(folder, f"{what.replace(' ', '-')}-{number}", options)
                run.run_and_kill(victims)
                print(
                    f"{what} killed, {number} of {arguments.times}: {run.story(plain)}", flush=True
                )


def kill_node(arguments: argparse.Namespace) -> None:
    """Clusters of one core and of two; then one of two nodes on this machine is killed."""
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    with tempfile.TemporaryDirectory() as folder:
        plain = _Run(folder, "plain", ())
        plain.run()
        for cores in (1, 2):
            cluster = Cluster(initialize_head=True, head_node_args={**head, "num_cpus": cores})
            run = _Run(folder, f"cores-{cores}", ("--ray", cluster.address))
            run.run()
            print(f"a cluster with --num-cpus {cores}: {run.story(plain)}", flush=True)
            cluster.shutdown()
        for number in range(1, arguments.times + 1):
            cluster = Cluster(initialize_head=True, head_node_args={**head, "num_cpus": 1})
            try:
                second = cluster.add_node(num_cpus=1)
                run = _Run(folder, f"node-{number}", ("--ray", cluster.address))

                def remove(
                    _: int, second: object = second, cluster: Cluster = cluster
                ) -> list[int]:
                    cluster.remove_node(second, allow_graceful=False)
                    return []

                run.run_and_kill(remove)
            finally:
                cluster.shutdown()
            print(f"a node killed, {number} of {arguments.times}: {run.story(plain)}", flush=True)


class _Run:
    """The same command, until it ends well."""

    def __init__(self, folder: str, name: str, options: Sequence[str]) -> None:
        source = Path(folder, "x-idx3-ubyte")
        if not source.exists():
            write_idx(source, np.resize(PIXELS, (_ROWS, 28, 28)))
        self._output = Path(folder, f"{name}.parquet")
        self._command = [*OURS, "score", str(source), "-o", str(self._output), "--seed", "1"]
        self._command += ["--passes", str(_PASSES), *options]
        self._commands, self._seconds, self._killed = 0, 0.0, ""

    def _start(self) -> "subprocess.Popen[str]":
        self._commands += 1
        return subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)

    def run(self) -> None:
        """Runs the command as often as it takes."""
        while True:
            begun = time.monotonic()
            process = self._start()
            said = process.communicate(timeout=_MOST_SECONDS)[1]
            self._seconds += time.monotonic() - begun
            if process.returncode == 0:
                return
            assert self._commands < 5, said

    def run_and_kill(self, victims: Callable[[int], Sequence[int] | None]) -> None:
        """Kills at a random moment: once a number of parts of the table is there, or before any.

        Args:
            victims: the processes to kill, of a command's; None: there is none yet.
        """
        begun, wanted = time.monotonic(), random.randrange(-2, _PARTS)
        earliest = begun + (random.uniform(0, _STARTING_SECONDS) if wanted < 0 else 0)
        process, killed = self._start(), None
        parts = self._output.with_name(f"{self._output.name}.parts")
        while process.poll() is None and killed is None:
            kept = len(list(parts.glob("*.arrow")))
            if kept >= wanted and time.monotonic() >= earliest:
                killed = victims(process.pid)
            time.sleep(_POLL_SECONDS)
        below = descendants_of(process.pid)
        for pid in killed or ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        seconds = time.monotonic() - begun
        self._killed = f"after {seconds:.1f} s, with {kept} of {_PARTS} parts; "
        process.communicate(timeout=_MOST_SECONDS)
        self._seconds = time.monotonic() - begun
        if process.returncode != 0:
            _wait_until_gone(below)
            self.run()

    def story(self, plain: "_Run") -> str:
        """What happened; ends this process if the table is not the other's, byte for byte."""
        if self._output.read_bytes() != plain._output.read_bytes():
            sys.exit(f"{self._output.name}: another table")
        commands = f"{self._commands} command{'s' if self._commands > 1 else ''}"
        return f"{self._killed}{commands}, {self._seconds:.0f} s; the same bytes"


def _an_actor(pid: int) -> list[int] | None:
    """One of the processes below another that score for Ray."""
    found = []
    for child in descendants_of(pid):
        with suppress(OSError):  # it has ended
            if b"MapWorker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return random.sample(found, 1) if found else None


def _wait_until_gone(pids: Sequence[int]) -> None:
    """What a killed command leaves of Ray ends by itself."""
    end = time.monotonic() + _MOST_SECONDS
    while any(map(_is_running, pids)) and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)


def _is_running(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty once it has ended
    except OSError:
        return False
