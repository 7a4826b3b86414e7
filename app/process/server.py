"""Runs the application in uvicorn: in this process, or in several workers."""

import asyncio
import gc
import importlib.util
import itertools
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import uvicorn
from fastapi import FastAPI

from app.api.application import create_app
from app.api.examples import example_png_base64
from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from app.inference.catalogue import Catalogue, read_catalogue
from app.inference.repository import Loaded
from app.process.draining import UVICORN_SECONDS, DrainingServer
from app.process.file_limit import fit_to_file_limit, pending_connections
from app.process.listening import address_of, cannot_listen, copies_of
from app.process.signals import SIGHUP, hold_reloads
from app.process.supervisor import Answer, Change, Serving, Supervisor, Worker
from app.settings import Settings
from app.telemetry.logs import chosen_format, configure_logs
from app.telemetry.metrics import MetricsRow
from model.errors import CheckpointError

logger = logging.getLogger("dropserve")

_WITHOUT_LIMITS = (
    "httptools is not installed: nothing limits the number of connections, and how slowly clients "
    "send and read; install it, or put a proxy that limits both in front of the server"
)


def run_server(settings: Settings, loaded: Loaded, listeners: list[socket.socket]) -> NoReturn:
    """Serves until SIGINT or SIGTERM, and exits.

    Args:
        settings: how to serve.
        loaded: the networks, already loaded and checked.
        listeners: bound, and not listening yet.

    Raises:
        SettingsError: several workers have no folder for temporary files.
    """
    access_log = configure_logs(settings)
    settings = fit_to_file_limit(settings)
    if settings.workers > 1:
        _exit(_run_workers(settings, listeners))
    run_app(create_app(settings, loaded=loaded, access_log=access_log), settings, listeners)


def run_app(app: FastAPI, settings: Settings, listeners: list[socket.socket]) -> NoReturn:
    """Serves an application in this process until SIGINT or SIGTERM, and exits."""
    _Server(configure(settings, app), app).run(listeners)
    _exit(EXIT_FAILED)  # it did not serve


def _run_workers(settings: Settings, listeners: list[socket.socket]) -> int:
    if SIGHUP is not None:  # not on Windows
        multiprocessing.set_start_method("forkserver", force=True)
        multiprocessing.set_forkserver_preload([__name__, "app.process.preload"])
        # It would import from the current folder first, which may have an `app` of its own.
        os.environ["PYTHONSAFEPATH"] = "1"
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    host, port = listeners[0].getsockname()[:2]
    start = partial(Worker, _serve_worker, listeners)
    announce = partial(_print_hint, host, port, settings)
    return Supervisor(start, settings, listeners, announce).run()


def _serve_worker(
    listeners: list[socket.socket],
    settings: Settings,
    row: MetricsRow | None,
    catalogue: Path,
    pipe: Connection,
) -> NoReturn:
    """Runs in the process of a worker, from its start to its end."""
    # The supervisor handles what reaches the whole process group, such as Ctrl-C.
    for sig in filter(None, (signal.SIGINT, SIGHUP)):
        signal.signal(sig, signal.SIG_IGN)
    metrics = None if row is None else row.open()
    find = partial(read_catalogue, catalogue)
    app = create_app(
        settings,
        find=find,
        metrics=metrics,
        access_log=configure_logs(settings),
        used_tokens=None if row is None else row.path.with_name("used-tokens"),
    )
    _WorkerServer(configure(settings, app), app, pipe, find).run(listeners)
    _exit(EXIT_FAILED)  # it did not serve


# Objects made since the last collection: a request leaves no cycles, and under overload the
# collections of every 700 took half a percent of the time.
_COLLECTED = 10_000


def configure(settings: Settings, app: FastAPI | None = None) -> uvicorn.Config:
    """The configuration of uvicorn; without an application, to look at it only."""
    http: Any = "auto"
    if importlib.util.find_spec("httptools"):  # not on Windows
        from app.process.refusing import refusing_protocol

        http = refusing_protocol(settings, app.state.metrics if app else None)
    elif app:
        logger.warning(_WITHOUT_LIMITS)
    return uvicorn.Config(
        app or "",
        http=http,
        ws="none",
        log_config=None,  # see app.telemetry.logs
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=UVICORN_SECONDS,
        backlog=pending_connections(settings),
    )


class _Server(DrainingServer):
    """The only server of this process and port: prints how to reach it, and reloads on SIGHUP."""

    async def serve(self, sockets: list[socket.socket] | None = None) -> NoReturn:
        """Serves, and ends the process: closing the event loop would log what it cancels."""
        await super().serve(sockets)
        _exit(EXIT_INTERRUPTED if self.last_signal == signal.SIGINT else EXIT_OK)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or ():
            try:
                listener.listen(self.config.backlog)  # uvloop would hide that it cannot
            except OSError as error:  # another program has begun to listen since it was bound
                host, port = listener.getsockname()[:2]
                sys.stderr.write(f"dropserve: {cannot_listen(host, port, error)}\n")
                _exit(EXIT_USAGE)
        # What was imported stays: looking through all of it for garbage takes a tenth of a second
        # each time, in which nobody is answered. The network does not: a reload replaces it.
        gc.freeze()
        gc.set_threshold(_COLLECTED)
        await super().startup([*(sockets or ()), *copies_of(sockets or ())])
        self._reloads: set[asyncio.Task[None]] = set()
        if self.started:
            self.begin_to_serve()

    def begin_to_serve(self) -> None:
        if SIGHUP is not None:
            asyncio.get_running_loop().add_signal_handler(SIGHUP, self.reload)
            hold_reloads(False)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        _print_hint(host, port, self.app.state.settings)

    def reload(self) -> None:
        # Kept, since the event loop alone would not keep it.
        task = asyncio.get_running_loop().create_task(self.rescan())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def rescan(self) -> None:
        await self.app.state.models.rescan()


class _WorkerServer(_Server):
    """A worker: it handles the signals that the supervisor sends, and ends when there is none."""

    handled_signals = (signal.SIGTERM,)
    _got_sigterm = False

    def __init__(
        self,
        config: uvicorn.Config,
        app: FastAPI,
        pipe: Connection,
        find: Callable[[], Catalogue],
    ) -> None:
        super().__init__(config, app)
        self._pipe, self._find = pipe, find
        self._tickets = itertools.count()
        self._asked: dict[int, asyncio.Future[str | None]] = {}
        app.state.change_model = self._ask_supervisor

    def _is_known(self) -> bool:
        # Clients know another worker, or the supervisor would have ended without a word.
        return self._got_sigterm or super()._is_known()

    def begin_to_serve(self) -> None:
        asyncio.get_running_loop().add_reader(self._pipe.fileno(), self._receive)
        self._report(self.app.state.models.catalogue.generation, [])

    async def rescan(self) -> None:
        generation = self._find().generation
        self._report(generation, await self.app.state.models.rescan())

    def _report(self, generation: int, failures: list[str]) -> None:
        with suppress(OSError):  # the supervisor is gone
            self._pipe.send(Serving(generation, failures))

    async def _ask_supervisor(self, name: str, is_load: bool) -> None:
        """Has all workers load or unload a model.

        Raises:
            CheckpointError: that cannot be done; then nothing has changed.
        """
        ticket = next(self._tickets)
        answer = self._asked[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._pipe.send(Change(ticket, name, is_load))
            error = await answer
        finally:
            del self._asked[ticket]
        if error is not None:
            raise CheckpointError(error)

    def _receive(self) -> None:
        try:
            message: int | Answer = self._pipe.recv()
            self._got_sigterm = message == signal.SIGTERM
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._pipe.fileno())
            message = signal.SIGTERM
        if isinstance(message, Answer):
            asked = self._asked.get(message.ticket)
            if asked is not None and not asked.done():  # who asked may be gone
                asked.set_result(message.error)
        elif message == SIGHUP:
            self.reload()
        else:
            self.handle_exit(message, None)


def _print_hint(host: str, port: int, settings: Settings) -> None:
    address = address_of(host, port)
    if chosen_format(settings) == "json":
        logger.info("Dropserve answers at %s; API docs: %s/docs", address, address)
        return
    # In one piece, since the log is written to the same place.
    sys.stderr.write(
        f"Dropserve answers at {address}; API docs: {address}/docs\n"
        "Try it, in another terminal (the base64 is a small PNG of a digit):\n"
        f"  printf %s '{example_png_base64()}' | base64 --decode | "
        f"curl --data-binary @- '{address}/predict/mc?seed=1'\n"
    )
    sys.stderr.flush()


def _exit(code: int) -> NoReturn:
    """Ends the process without unloading its libraries, which a rollout would wait for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
