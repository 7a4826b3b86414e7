"""The servers that the load scripts start, without pytest."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.load.processes import on_core

ROOT = Path(__file__).parents[2]
OURS = (sys.executable, "-m", "app")
# The product's application with one more route, POST /constant; takes settings, but no options.
WITH_CONSTANT = (sys.executable, "-m", "tests.load.constant_app")
# Imports from a cold disk on a busy machine take most of it; the peers import torch.
_START_SECONDS = 120.0
# Longer than a server gives its last requests.
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Server:
    """A server that is ready.

    Attributes:
        address: `http://...`, without a trailing slash.
        process: the worker, or with several workers their supervisor.
        log: the file that its standard error goes to.
    """

    address: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid


@contextmanager
def serving(
    *options: str,
    core: int | None = None,
    environ: Mapping[str, str] | None = None,
    program: tuple[str, ...] = (*OURS, "serve"),
) -> Iterator[Server]:
    """Runs a server with default settings on a free port until the block ends.

    Args:
        options: of the command line, such as `--workers`.
        core: the only core that it may use; None: all.
        environ: settings; the DROPSERVE_ variables of this process are left out.
        program: the command line before the options, or `WITH_CONSTANT`.

    Raises:
        RuntimeError: the server did not get ready; the text ends with its log.
    """
    port = free_port()
    settings = {"DROPSERVE_PORT": str(port), "DROPSERVE_DRAIN_SECONDS": "0", **(environ or {})}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with log.open("wb") as output, on_core(core):
            process = subprocess.Popen(
                [*program, *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=without_settings() | settings,
            )
        server = Server(f"http://127.0.0.1:{port}", process, log)
        try:
            wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            finally:
                process.kill()
                process.wait()


def wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    # Not through a proxy that the environment may name.
    with httpx.Client(trust_env=False) as client:
        while server.process.poll() is None and time.monotonic() < deadline:
            try:
                if client.get(f"{server.address}/health/ready").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)
    raise RuntimeError(f"the server did not get ready:\n{server.log.read_text()[-2000:]}")


def without_settings() -> dict[str, str]:
    """The environment of this process without DROPSERVE_ variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DROPSERVE_")}


def set_constant(address: str, answer: bytes) -> None:
    """Sets the body that `/constant` returns; the server runs `WITH_CONSTANT`."""
    httpx.put(f"{address}/constant", content=answer, trust_env=False).raise_for_status()


def sample(name: str) -> bytes:
    """A committed picture, such as `7.png`: an encoded file."""
    return (ROOT / "tests" / "samples" / name).read_bytes()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
