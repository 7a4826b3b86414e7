"""Runs the application in uvicorn: one torch thread a process, a hint on the screen."""

import os
import signal
import socket
import sys
from typing import NoReturn

import torch
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from app.examples import example_png_base64
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
    _use_one_thread()
    # uvicorn shuts down on SIGTERM and then raises the signal again: that is a clean end here.
    signal.signal(signal.SIGTERM, _exit_cleanly)
    server = _Server(_configure(create_app(settings, checkpoint), settings))
    server.run()
    return 0 if server.started else 1


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
    _print_hint(*listener.getsockname()[:2])
    Multiprocess(config, sockets=[listener]).run()
    return 0


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
    )


def _use_one_thread() -> None:
    """Before the first operation: on a busy machine a second thread makes requests wait."""
    torch.set_num_threads(1)


class _Server(uvicorn.Server):
    """A uvicorn server that says how to reach it once it is reachable."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            _print_hint(host, port)


def _print_hint(host: str, port: int) -> None:
    # What listens on every interface is reached at the loopback address from here.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(
        host, f"[{host}]" if ":" in host else host
    )
    address = f"http://{reachable}:{port}"
    print(f"Dropserve answers at {address}; API docs: {address}/docs", file=sys.stderr)
    print("Try it, in another terminal (the base64 is a small PNG of a digit):", file=sys.stderr)
    print(
        f"  printf %s '{example_png_base64()}' | base64 --decode | "
        f"curl --data-binary @- '{address}/predict/mc?seed=1'",
        file=sys.stderr,
        flush=True,
    )


def _exit_cleanly(*_: object) -> NoReturn:
    sys.exit(0)
