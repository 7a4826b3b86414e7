"""Runs the application in uvicorn: one torch thread a process, a hint on the screen."""

import asyncio
import gc
import importlib.util
import logging
import os
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Literal, NoReturn

import torch
import uvicorn
from fastapi import FastAPI

from app.api.application import create_app
from app.api.examples import example_png_base64
from app.errors import EXIT_FAILED, EXIT_OK
from app.process.draining import UVICORN_SECONDS, DrainingServer
from app.process.supervisor import SIGHUP, Supervisor
from app.settings import Settings
from app.telemetry.logs import chosen_format, configure_logs
from app.telemetry.metrics import Metrics, MetricsRow
from model.checkpoint import Checkpoint

logger = logging.getLogger("dropserve")


def run_server(settings: Settings, checkpoint: Checkpoint) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: how to serve.
        checkpoint: the network, already loaded and checked.
    """
    if settings.workers > 1:
        _run_workers(settings)
    access_log = configure_logs(settings)
    return run_app(create_app(settings, checkpoint, access_log=access_log), settings)


def run_app(app: FastAPI, settings: Settings) -> int:
    """Serves an application in this process until SIGINT or SIGTERM; returns the exit code."""
    _use_one_thread()
    # uvicorn shuts down on SIGTERM and then raises the signal again: that is a clean end here.
    signal.signal(signal.SIGTERM, _exit_cleanly)
    server = _Server(
        configure(app, settings, app.state.metrics), app, settings.drain_seconds, owns_listener=True
    )
    server.run()
    return EXIT_OK if server.started else EXIT_FAILED


def _run_workers(settings: Settings) -> NoReturn:
    """Several processes on one socket."""
    configure_logs(settings)
    listener = configure(None, settings).bind_socket()
    host, port = listener.getsockname()[:2]
    supervisor = Supervisor(
        _serve_worker, settings, listener, lambda: _print_hint(host, port, settings)
    )
    _leave(supervisor.run())


def _serve_worker(
    settings: Settings, listener: socket.socket, pipe: Connection, row: MetricsRow | None
) -> NoReturn:
    """One of several processes, from its start to its end."""
    _use_one_thread()
    metrics = None if row is None else row.open()
    app = create_app(settings, metrics=metrics, access_log=configure_logs(settings))
    server = _WorkerServer(
        configure(app, settings, metrics), app, settings.drain_seconds, owns_listener=False
    )
    server.pipe = pipe
    server.run([listener])
    _leave(EXIT_OK)


def configure(
    app: FastAPI | None, settings: Settings, metrics: Metrics | None = None
) -> uvicorn.Config:
    """How uvicorn serves the application; what it refuses by itself is counted."""
    return uvicorn.Config(
        app or "",
        host=settings.host,
        port=settings.port,
        http=_protocol(settings, metrics),
        ws="none",
        log_config=None,  # see app.logs
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=UVICORN_SECONDS,
    )


def _protocol(
    settings: Settings, metrics: Metrics | None
) -> type[asyncio.Protocol] | Literal["auto"]:
    """The protocol with limits; without httptools, as on Windows, uvicorn's other one."""
    if importlib.util.find_spec("httptools") is None:
        return "auto"
    from app.process.connections import bounded_protocol

    return bounded_protocol(settings, metrics)


def _use_one_thread() -> None:
    """Before the first operation: on a busy machine a second thread makes requests wait."""
    torch.set_num_threads(1)


class _Server(DrainingServer):
    """The only server of this process and port: it says how to reach it, and reloads on SIGHUP."""

    _reloads: "set[asyncio.Task[None]]"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # What was imported stays: looking through all of it for garbage takes a tenth of a second
        # each time, in which nobody is answered. The network does not: a reload replaces it.
        gc.freeze()
        await super().startup(sockets)
        self._reloads = set()
        if self.started:
            self._listen_to_the_operator()

    def _listen_to_the_operator(self) -> None:
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(SIGHUP, self._reload)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        _print_hint(host, port, self._app.state.settings)

    def _reload(self) -> None:
        # Kept, since the loop alone would not keep it.
        task = asyncio.get_running_loop().create_task(self._app.state.models.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


class _WorkerServer(_Server):
    """A worker: it does what the supervisor says, and ends when there is none."""

    pipe: Connection

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves to the supervisor what reaches the whole group: Ctrl-C, a terminal's end."""
        for sig in {signal.SIGINT, SIGHUP} - {signal.SIGTERM}:
            signal.signal(sig, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self.handle_exit)
        yield

    def _listen_to_the_operator(self) -> None:
        asyncio.get_running_loop().add_reader(self.pipe.fileno(), self._obey)
        self.pipe.send("serving")

    def _obey(self) -> None:
        try:
            sig: int = self.pipe.recv()
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self.pipe.fileno())
            sig = signal.SIGTERM
        if sig == SIGHUP:
            self._reload()
        else:
            self.handle_exit(sig, None)


def _print_hint(host: str, port: int, settings: Settings) -> None:
    reachable = _reachable(host)
    address = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    if chosen_format(settings) == "json":
        logger.info("Dropserve answers at %s; API docs: %s/docs", address, address)
        return
    # In one piece, since the log is written beside it.
    sys.stderr.write(
        f"Dropserve answers at {address}; API docs: {address}/docs\n"
        "Try it, in another terminal (the base64 is a small PNG of a digit):\n"
        f"  printf %s '{example_png_base64()}' | base64 --decode | "
        f"curl --data-binary @- '{address}/predict/mc?seed=1'\n"
    )
    sys.stderr.flush()


def _reachable(host: str) -> str:
    """What listens on every interface is reached at the loopback address from here."""
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104: compared with, not listened on
    return every.get(host, host)


def _exit_cleanly(*_: object) -> NoReturn:
    _leave(EXIT_OK)


def _leave(code: int) -> NoReturn:
    """Ends the process without unloading torch, which takes a second that a rollout waits for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
