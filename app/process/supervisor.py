"""Several workers on one listener: started, replaced when they die, reloaded, ended together.

The workers are forked from a process that has imported everything and computed nothing, so that a
replacement serves within a second or two: importing torch alone takes longer. They are told what to
do through a pipe, which also tells them when this process is gone.
"""

import logging
import multiprocessing
import multiprocessing.connection
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from app.api.application import load_served_checkpoint
from app.api.routes import ROUTE_LABELS
from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from app.process.draining import refuse_new_connections
from app.settings import Settings
from app.telemetry.metrics import MetricsRow
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint
from model.errors import CheckpointError

# Runs a worker: its settings, the listener, its end of the pipe, and where it counts. Importable by
# name.
ServeWorker = Callable[[Settings, socket.socket, Connection, MetricsRow | None], None]

logger = logging.getLogger("dropserve")

_LOOKING_SECONDS = 0.1
# After a worker that died before it served, which its replacement may do as well.
_PAUSE_SECONDS = 1.0
# What ending may take after the drain; then it is enforced.
_ENDING_SECONDS = 1.8
_IS_POSIX = hasattr(signal, "SIGHUP")
SIGHUP = getattr(signal, "SIGHUP", signal.SIGTERM)


class _Worker:
    """One process and the pipe to it."""

    def __init__(
        self,
        serve: ServeWorker,
        settings: Settings,
        listener: socket.socket,
        row: MetricsRow | None,
    ) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self.row = row
        self.process = multiprocessing.Process(
            target=serve, args=(settings, listener, theirs, row), daemon=True
        )
        self.process.start()
        theirs.close()
        self.has_served = False

    def tell(self, sig: int) -> None:
        """Passes a signal on; one that is dead does not hear it."""
        try:
            self._pipe.send(sig)
        except OSError:
            logger.debug("worker %s is gone", self.process.pid)

    def listen(self) -> None:
        """Notes whether it has begun to serve."""
        try:
            if not self.has_served and self._pipe.poll():
                self._pipe.recv()
                self.has_served = True
        except (EOFError, OSError):
            logger.debug("worker %s is gone", self.process.pid)


class Supervisor:
    """Runs workers until a signal ends them.

    The checkpoint is copied once it is checked, and the copy is what every worker reads: a
    replacement serves what the others serve, whatever has become of the file.

    Args:
        serve: what a worker runs.
        settings: how to serve.
        listener: what the workers accept connections from.
        announce: called once, when the first worker serves.
    """

    def __init__(
        self,
        serve: ServeWorker,
        settings: Settings,
        listener: socket.socket,
        announce: Callable[[], None],
    ) -> None:
        self._serve = serve
        self._settings = settings
        self._listener = listener
        self._announce = announce
        self._signals: deque[int] = deque()
        self._workers: list[_Worker] = []
        # Where nobody counts now; a replacement goes on where the worker before it ended.
        self._free_rows: list[MetricsRow] = []
        self._has_served = False
        self._no_start_before = 0.0

    def run(self) -> int:
        """Serves until SIGINT or SIGTERM; returns the exit code."""
        if _IS_POSIX:
            multiprocessing.set_start_method("forkserver", force=True)
            multiprocessing.set_forkserver_preload(["app.process.server"])
        for sig in {signal.SIGINT, signal.SIGTERM, SIGHUP}:
            signal.signal(sig, lambda number, _: self._signals.append(number))
        with tempfile.TemporaryDirectory(prefix="dropserve-") as folder:
            self._served = Path(folder) / "served.safetensors"
            self._take_checkpoint()
            if self._settings.metrics:
                self._free_rows = MetricsRow.create(
                    ROUTE_LABELS, Path(folder) / "metrics", self._settings.workers
                )
            try:
                return self._run()
            finally:
                for worker in self._workers:
                    worker.process.kill()
                    worker.process.join()

    def _run(self) -> int:
        while True:
            if not self._keep_workers():
                return EXIT_FAILED
            multiprocessing.connection.wait(
                [worker.process.sentinel for worker in self._workers], _LOOKING_SECONDS
            )
            while self._signals:
                sig = self._signals.popleft()
                if sig != SIGHUP:
                    return self._end(sig)
                self._reload()

    def _keep_workers(self) -> bool:
        """Starts what is missing; False: they cannot be started."""
        for worker in list(self._workers):
            worker.listen()
            if worker.has_served and not self._has_served:
                self._has_served = True
                self._announce()
            if worker.process.is_alive():
                continue
            self._workers.remove(worker)
            if worker.row is not None:
                worker.row.retire()
                self._free_rows.append(worker.row)
            code = worker.process.exitcode
            if not worker.has_served:
                logger.error("worker %s ended with %s as it started", worker.process.pid, code)
                if not self._has_served:
                    return False
                self._no_start_before = time.monotonic() + _PAUSE_SECONDS
            else:
                logger.warning("worker %s ended with %s; another starts", worker.process.pid, code)
        missing = self._settings.workers - len(self._workers)
        if missing and time.monotonic() >= self._no_start_before:
            settings = self._settings.model_copy(update={"checkpoint": self._served})
            for _ in range(missing):
                row = self._free_rows.pop() if self._free_rows else None
                self._workers.append(_Worker(self._serve, settings, self._listener, row))
        return True

    def _take_checkpoint(self) -> Checkpoint:
        """Copies the checkpoint, checks the copy, and makes it the one that is served.

        Raises:
            CheckpointError: it cannot be served; what was served before stays.
        """
        path = self._settings.checkpoint or DEFAULT_CHECKPOINT
        taken = self._served.with_name("taken.safetensors")
        try:
            shutil.copyfile(path, taken)
        except OSError as error:
            raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
        checkpoint = load_served_checkpoint(self._settings.model_copy(update={"checkpoint": taken}))
        taken.replace(self._served)
        return checkpoint

    def _reload(self) -> None:
        try:
            checkpoint = self._take_checkpoint()
        except CheckpointError as error:
            logger.error("the checkpoint is not reloaded, the one before serves on: %s", error)
            return
        logger.info("the workers go over to %s %s", checkpoint.name, checkpoint.version)
        for worker in self._workers:
            worker.tell(SIGHUP)

    def _end(self, sig: int) -> int:
        """Passes the signal on, and every one that follows, until all have ended."""
        for worker in self._workers:
            worker.tell(sig)
        now = time.monotonic()
        refused_from = now + (self._settings.drain_seconds if sig == signal.SIGTERM else 0)
        deadline = refused_from + _ENDING_SECONDS
        is_refusing = False
        while any(worker.process.is_alive() for worker in self._workers):
            now = time.monotonic()
            if now >= refused_from and not is_refusing:
                is_refusing = True
                refuse_new_connections(self._listener.fileno())
            if now >= deadline:
                break
            while self._signals:
                follower = self._signals.popleft()
                if follower != SIGHUP:
                    for worker in self._workers:
                        worker.tell(follower)
            multiprocessing.connection.wait(
                [w.process.sentinel for w in self._workers if w.process.is_alive()],
                _LOOKING_SECONDS,
            )
        return EXIT_INTERRUPTED if sig == signal.SIGINT else EXIT_OK
