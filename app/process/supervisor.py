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

import gc
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

from app.api.routes import ROUTE_LABELS
from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from app.inference.repository import load_predictor
from app.process.signals import SIGHUP, hold_reloads
from app.settings import Settings, SettingsError
from app.telemetry.metrics import MetricsRow
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, read_checkpoint_file
from model.errors import ModelError

logger = logging.getLogger("dropserve")

_POLL_SECONDS = 0.1
_PAUSE_SECONDS = 1.0  # after a worker that died before it served, as its replacement may, too
_END_SECONDS = 1.8  # the longest that the end may take after the drain; then workers are killed


class Worker:
    """A process that runs `serve`, importable by its name, and the pipe to it."""

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        self._pipe, its_end = multiprocessing.Pipe()
        self._has_served = False
        self.process = multiprocessing.Process(target=serve, args=(*arguments, its_end))
        self.process.start()
        its_end.close()

    def send(self, sig: int) -> None:
        """Passes a signal on, if the worker is still there."""
        with suppress(OSError):
            self._pipe.send(sig)

    def has_served(self) -> bool:
        """Whether the worker serves, or did before it died."""
        with suppress(OSError, EOFError):
            self._has_served = self._has_served or (self._pipe.poll() and self._pipe.recv())
        return self._has_served


class Supervisor:
    """Runs workers until a signal ends them.

    Args:
        start: starts a worker with its settings and the row in which it counts.
        settings: how to serve.
        listeners: what the workers accept connections from; closed when the end begins.
        announce: called once, when the first worker serves.
    """

    def __init__(
        self,
        start: Callable[[Settings, MetricsRow | None], Worker],
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
                self._served = Path(folder, "served.safetensors")
                self._copy_checkpoint()
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
                    multiprocessing.connection.wait(self._alive(), _POLL_SECONDS)
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
        settings = self._settings.model_copy(update={"checkpoint": self._served})
        for number, row in enumerate(self._rows):
            if number not in self._workers and time.monotonic() >= self._no_start_before:
                self._workers[number] = self._start(settings, row)
        return True

    def _copy_checkpoint(self) -> Checkpoint:
        """Copies the checkpoint; once the copy is checked, it is what workers read."""
        copy = self._served.with_name("copy.safetensors")
        copy.write_bytes(read_checkpoint_file(self._settings.checkpoint or DEFAULT_CHECKPOINT))
        settings = self._settings.model_copy(update={"checkpoint": copy})
        checkpoint = load_predictor(settings).checkpoint
        gc.collect()  # a predictor refers to itself
        copy.replace(self._served)
        return checkpoint

    def _reload(self) -> None:
        try:
            checkpoint = self._copy_checkpoint()
        except (ModelError, OSError) as error:
            logger.error("the checkpoint is not reloaded, the one before serves on: %s", error)
        else:
            logger.info("the workers reload %s %s", checkpoint.name, checkpoint.version)
            self._send(signal.SIGHUP)

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
