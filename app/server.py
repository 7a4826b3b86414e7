"""Runs the application in uvicorn: one torch thread a process, a hint on the screen."""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from app.examples import example_png_base64
from app.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from app.factory import create_app
from app.settings import PREFIX, Settings, load_settings
from model.checkpoint import Checkpoint


def run_server(settings: Settings, checkpoint: Checkpoint) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: how to serve.
        checkpoint: the network, already loaded and checked.
    """
    if settings.workers > 1:
        return _run_workers(settings)
    return run_app(create_app(settings, checkpoint), settings)


def run_app(app: FastAPI, settings: Settings) -> int:
    """Serves an application in this process until SIGINT or SIGTERM; returns the exit code."""
    _use_one_thread()
    # uvicorn shuts down on SIGTERM and then raises the signal again: that is a clean end here.
    signal.signal(signal.SIGTERM, _exit_cleanly)
    server = _Server(_configure(app, settings))
    server.run()
    return EXIT_OK if server.started else EXIT_FAILED


def create_worker_app() -> FastAPI:
    """The application of one of several workers: its settings come through the environment."""
    _use_one_thread()
    return create_app(load_settings(os.environ))


def _run_workers(settings: Settings) -> int:
    """Several processes on one socket under uvicorn's supervisor, which replaces a killed one."""
    for name, value in settings.model_dump(exclude_none=True).items():
        os.environ[f"{PREFIX}{name.upper()}"] = str(value)
    config = _configure(f"{__name__}:{create_worker_app.__name__}", settings)
    listener = config.bind_socket()
    supervisor = _Supervisor(config, [listener])
    supervisor.run()
    return EXIT_INTERRUPTED if supervisor.was_interrupted else EXIT_OK


def _configure(app: FastAPI | str, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a request comes from
    )


def _use_one_thread() -> None:
    """Before the first operation: on a busy machine a second thread makes requests wait."""
    torch.set_num_threads(1)


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which says how to reach the workers once one is reachable."""

    was_interrupted = False

    def init_processes(self) -> None:
        super().init_processes()
        threading.Thread(target=self._announce, daemon=True).start()

    def handle_int(self) -> None:
        self.was_interrupted = True
        super().handle_int()

    def _announce(self) -> None:
        host, port = self.sockets[0].getsockname()[:2]
        while not self.should_exit.wait(0.1):
            with suppress(OSError), socket.create_connection((_reachable(host), port), timeout=1):
                _print_hint(host, port)
                return


class _Server(uvicorn.Server):
    """A uvicorn server that says how to reach it once it is reachable."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            _print_hint(host, port)


def _print_hint(host: str, port: int) -> None:
    reachable = _reachable(host)
    address = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    print(f"Dropserve answers at {address}; API docs: {address}/docs", file=sys.stderr)
    print("Try it, in another terminal (the base64 is a small PNG of a digit):", file=sys.stderr)
    print(
        f"  printf %s '{example_png_base64()}' | base64 --decode | "
        f"curl --data-binary @- '{address}/predict/mc?seed=1'",
        file=sys.stderr,
        flush=True,
    )


def _reachable(host: str) -> str:
    """What listens on every interface is reached at the loopback address from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _exit_cleanly(*_: object) -> NoReturn:
    sys.exit(EXIT_OK)
