"""Runs the application in uvicorn: one process, one torch thread, a hint on the screen."""

import signal
import socket
import sys
from typing import NoReturn

import torch
import uvicorn

from app.examples import example_png_base64
from app.factory import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint


def run_server(settings: Settings, checkpoint: Checkpoint) -> int:
    """Serves until SIGINT or SIGTERM; returns the exit code.

    Args:
        settings: how to serve.
        checkpoint: the network, already loaded and checked.
    """
    # Before the first operation: on a busy machine a second thread makes one request wait for
    # another.
    torch.set_num_threads(1)
    # uvicorn shuts down on SIGTERM and then raises the signal again: that is a clean end here.
    signal.signal(signal.SIGTERM, _exit_cleanly)
    config = uvicorn.Config(
        create_app(settings, checkpoint),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
    )
    server = _Server(config)
    server.run()
    return 0 if server.started else 1


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
