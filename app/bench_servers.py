"""The server that a benchmark starts for itself: a process on loopback."""

import os
import socket
import subprocess  # nosec B404: starts our own module, no shell
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

# Importing torch from a cold disk on a busy machine takes most of it.
_START_SECONDS = 120.0
# More than a server lets its last requests have.
_STOP_SECONDS = 20.0


class ServerError(Exception):
    """A server did not start; the text is one line for the user."""


@contextmanager
def start_bench_app(
    core: int | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Runs `app.bench_app` on a free port until the block ends; gives its address.

    Args:
        core: the only core that it may use; None: all.
        environ: variables besides those of this process.

    Raises:
        ServerError: it ended or did not get ready.
    """
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-P", "-m", "app.bench_app", str(port)]
    with tempfile.TemporaryFile() as log:
        with _keep_to(core):
            process = subprocess.Popen(  # nosec B603: the command is made here, of fixed words
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment() | dict(environ or {}),
            )
        try:
            _wait_until_ready(process, url, log)
            yield url
        finally:
            _stop(process)


def set_constant(base: str, answer: bytes) -> None:
    """Tells the app at the address what `/constant` answers."""
    httpx.put(f"{base}/constant", content=answer, trust_env=False).raise_for_status()


def _environment() -> dict[str, str]:
    """This process's, with our packages found before any others named `app`."""
    folders = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _keep_to(core: int | None) -> Iterator[None]:
    """What is started within the block inherits the core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    # Not through a proxy that the environment may name.
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"the server did not start: {_last_line(log)}")
            try:
                if client.get(f"{url}/health/ready").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise ServerError(f"the server did not get ready within {_START_SECONDS:.0f} s")


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    finally:  # also when Ctrl-C is pressed again
        process.kill()
        process.wait()
