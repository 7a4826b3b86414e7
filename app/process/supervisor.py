"""Several workers on one listener: started, replaced when they die, reloaded, ended together.

uvicorn has a supervisor, too (`uvicorn.supervisors.Multiprocess`, as of 0.54). It would break five
promises:

- SIGHUP reloads the checkpoint with one worker as with several, and starts no process for that.
- A checkpoint that cannot be served changes nothing; uvicorn's next replacement would end on it.
- A replacement serves what the other workers serve, whatever has become of the file since.
- A second signal ends the server now.
- SIGTERM drains; uvicorn's workers run its own server class, which stops accepting at once.

Workers are forked from a process that has imported everything and computed nothing, since importing
takes longer than all else. Signals reach them through a pipe, whose end ends them.
"""

import logging
import multiprocessing
import multiprocessing.connection
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from app.api.routes import ROUTE_LABELS
from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from app.inference.repository import load_predictor
from app.process.copies import Copies, described
from app.process.signals import SIGHUP, hold_reloads
from app.settings import Settings, SettingsError
from app.telemetry.metrics import MetricsRow
from model.errors import ModelError

logger = logging.getLogger("dropserve")

_POLL_SECONDS = 0.1
_CHANGING_SECONDS = 0.01  # while a change is on its way to the workers
_PAUSE_SECONDS = 1.0  # after a worker that died before it served, as its replacement may, too
_END_SECONDS = 1.8  # the longest that the end may take after the drain; then workers are killed


class Change(NamedTuple):
    """A worker was asked to load or to unload a model."""

    ticket: int  # of the request, for its answer
    name: str
    is_load: bool


class Answer(NamedTuple):
    """All workers have a change, or what kept it from being made."""

    ticket: int
    error: str | None


class Serving(NamedTuple):
    """A worker serves what a catalogue of this generation has, but for what failed."""

    generation: int
    failures: list[str]


class Worker:
    """A process that runs `serve`, importable by its name, and the pipe to it.

    Attributes:
        serving: what it has said last; None before it serves.
        asked: changes that it was asked for, and that nobody has taken up.
    """

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        self._pipe, its_end = multiprocessing.Pipe()
        self.serving: Serving | None = None
        self.asked: list[Change] = []
        self.process = multiprocessing.Process(target=serve, args=(*arguments, its_end))
        self.process.start()
        its_end.close()

    def send(self, message: "int | Answer") -> None:
        """Passes on a signal or an answer, if the worker is still there."""
        with suppress(OSError):
            self._pipe.send(message)

    def has_served(self) -> bool:
        """Whether the worker serves, or did before it died; reads what it has said since."""
        with suppress(OSError, EOFError):
            while self._pipe.poll():
                message = self._pipe.recv()
                if isinstance(message, Serving):
                    self.serving = message
                else:
                    self.asked.append(message)
        return self.serving is not None


class Supervisor:
    """Runs workers until a signal ends them.

    Args:
        start: starts a worker with its settings, the row in which it counts, and the path of the
            catalogue that it serves.
        settings: how to serve.
        listeners: what the workers accept connections from; closed when the end begins.
        announce: called once, when the first worker serves.
    """

    def __init__(
        self,
        start: Callable[[Settings, MetricsRow | None, Path], Worker],
        settings: Settings,
        listeners: Sequence[socket.socket],
        announce: Callable[[], None],
    ) -> None:
        self._start, self._announce = start, announce
        self._settings, self._listeners = settings, listeners
        self._signals: deque[int] = deque()
        # By number; a replacement counts on in the row of the worker before it.
        self._workers: dict[int, Worker] = {}
        self._rows: list[MetricsRow] | list[None] = [None] * settings.workers
        self._has_served = False
        self._no_start_before = 0.0
        # One change at a time: who asked for it, its ticket, and what there was before.
        self._changing: tuple[Worker, int, Any] | None = None

    def run(self) -> int:
        """Serves until SIGINT or SIGTERM; returns the exit code.

        Raises:
            SettingsError: there is no folder for temporary files.
        """
        for sig in filter(None, (signal.SIGINT, signal.SIGTERM, SIGHUP)):
            signal.signal(sig, self._note)
        hold_reloads(False)
        with ExitStack() as stack:
            try:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dropserve-"))
                self._copies = Copies(Path(folder), self._settings, load_predictor)
                if self._settings.metrics:
                    rows = Path(folder, "rows")
                    self._rows = MetricsRow.create(ROUTE_LABELS, rows, self._settings.workers)
            except OSError as error:
                cure = "mount one (docker: --tmpfs /tmp), name one in TMPDIR, or use --workers 1"
                text = (
                    f"several workers need a folder for temporary files: {error.strerror}; {cure}"
                )
                raise SettingsError(text) from None
            try:
                while self._keep_workers():
                    multiprocessing.connection.wait(self._alive(), self._poll_seconds)
                    self._change_models()
                    while self._signals:
                        if (sig := self._signals.popleft()) != SIGHUP:
                            return self._end(sig)
                        self._reload()
                return EXIT_FAILED
            finally:
                for worker in self._workers.values():
                    worker.process.kill()
                    worker.process.join()

    def _note(self, sig: int, frame: FrameType | None) -> None:
        self._signals.append(sig)
        # Nobody is connected, and the start of the first worker waits until all is imported.
        if not self._workers and sig != SIGHUP:
            sys.exit(_exit_code(sig))

    def _alive(self) -> list[int]:
        """The sentinels of workers that are alive, for `multiprocessing.connection.wait`."""
        processes = [worker.process for worker in self._workers.values()]
        return [process.sentinel for process in processes if process.is_alive()]

    def _send(self, sig: int) -> None:
        for worker in self._workers.values():
            worker.send(sig)

    def _keep_workers(self) -> bool:
        """Starts the workers that are missing; False if the first ones cannot start."""
        for number, worker in list(self._workers.items()):
            if worker.has_served() and not self._has_served:
                self._has_served = True
                self._announce()
            if worker.process.is_alive():
                continue
            del self._workers[number]
            if row := self._rows[number]:
                row.retire()
            end = f"worker {worker.process.pid} ended with {worker.process.exitcode}"
            if worker.has_served():
                logger.warning("%s; another starts", end)
                continue
            logger.error("%s as it started", end)
            if not self._has_served:
                return False
            self._no_start_before = time.monotonic() + _PAUSE_SECONDS
        for number, row in enumerate(self._rows):
            if number not in self._workers and time.monotonic() >= self._no_start_before:
                self._workers[number] = self._start(self._settings, row, self._copies.path)
        return True

    def _reload(self) -> None:
        if self._copies.rescan():
            logger.info("the workers reload %s", described(self._copies.catalogue.files))
            self._send(signal.SIGHUP)

    @property
    def _poll_seconds(self) -> float:
        return _POLL_SECONDS if self._changing is None else _CHANGING_SECONDS

    def _change_models(self) -> None:
        """Loads and unloads what workers were asked to, one after the other."""
        if not self._are_workers_up_to_date():
            return
        if self._changing is not None:
            self._end_change(*self._changing)
        self._copies.clean()
        for worker in self._workers.values():
            while worker.asked and self._changing is None:
                change = worker.asked.pop(0)
                before = self._copies.state()
                try:
                    self._copies.change(change.name, change.is_load)
                except (ModelError, OSError) as error:
                    worker.send(Answer(change.ticket, str(error)))
                    continue
                verb = "load" if change.is_load else "unload"
                logger.info("the workers %s %s", verb, change.name)
                self._changing = worker, change.ticket, before
                self._send(signal.SIGHUP)

    def _are_workers_up_to_date(self) -> bool:
        """Whether every worker serves the latest catalogue, or has failed to."""
        generation = self._copies.generation
        served = [worker.serving for worker in self._workers.values()]
        return all(each is not None and each.generation >= generation for each in served)

    def _end_change(self, asker: Worker, ticket: int, before: Any) -> None:
        """Answers who asked for a change that all workers have."""
        served = [worker.serving for worker in self._workers.values()]
        failures = [failure for each in served if each for failure in each.failures]
        self._changing = None
        if failures:
            self._copies.restore(before)
            self._send(signal.SIGHUP)
        asker.send(Answer(ticket, failures[0] if failures else None))

    def _end(self, sig: int) -> int:
        """Passes this signal and those after it on, until every worker has ended."""
        # The workers have copies: when the last of them is closed, the kernel must refuse clients.
        for listener in self._listeners:
            listener.close()
        if not any(worker.has_served() for worker in self._workers.values()):
            return _exit_code(
                sig
            )  # nobody is connected, and a worker that starts would drain first
        drain_seconds = self._settings.drain_seconds if sig == signal.SIGTERM else 0
        deadline = time.monotonic() + drain_seconds + _END_SECONDS
        self._send(sig)
        while (alive := self._alive()) and time.monotonic() < deadline:
            multiprocessing.connection.wait(alive, _POLL_SECONDS)
            while self._signals:
                if (other := self._signals.popleft()) != SIGHUP:
                    self._send(other)
        return _exit_code(sig)


def _exit_code(sig: int) -> int:
    return EXIT_INTERRUPTED if sig == signal.SIGINT else EXIT_OK
