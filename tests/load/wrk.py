"""wrk as the load generator: closed loops of POST requests whose bodies are sent in turn."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.api.examples import example_pngs
from tests.load.processes import on_core
from tests.load.servers import ROOT, sample

PNG = {"content-type": "image/png"}
MNIST_FORM, PICTURE = "MNIST form", "140x140"
# PNG files that are sent in turn, by their name in the tables; file i shows the digit i modulo 10.
# Those in MNIST's form have 28x28 pixels and need no preparation.
IMAGES: Mapping[str, Sequence[bytes]] = {
    MNIST_FORM: example_pngs(),
    PICTURE: [sample(f"{digit}.png") for digit in range(10)],
}


@dataclass(frozen=True)
class Result:
    """What one run of wrk measured.

    Attributes:
        answered: requests with a 2xx answer.
        seconds: duration of the run.
        p50_ms, p95_ms, p99_ms: latencies of all answers, milliseconds.
        non_2xx: answers with a status of 400 or above.
        unanswered: requests that failed to connect, were cut off, or took longer than 2 s.
    """

    answered: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    non_2xx: int = 0
    unanswered: int = 0

    @property
    def rate(self) -> float:
        """2xx answers per second."""
        return self.answered / self.seconds

    @property
    def failed(self) -> int:
        return self.non_2xx + self.unanswered


class Wrk:
    """A run of wrk in the background, from construction until `result`.

    Args:
        url: address of the route.
        connections: each sends its next request when the previous one is answered.
        seconds: duration; wrk takes whole seconds only.
        bodies: sent in turn; by default 32 drawn digits in MNIST's form.
        headers: of every request, by default `PNG`; Host and Content-Length are added.
        core: the only core that wrk may use; None: all.
        pause_ms: mean pause of a connection before each request, which the latencies exclude.

    Raises:
        httpx.HTTPStatusError: the first body is answered with neither 2xx nor 429. wrk counts only
            statuses from 400 on, so that a redirect would pass for an answer.
    """

    def __init__(
        self,
        url: str,
        connections: int,
        seconds: int,
        *,
        bodies: Sequence[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        core: int | None = None,
        pause_ms: int | None = None,
    ) -> None:
        bodies = bodies or IMAGES[MNIST_FORM]
        headers = PNG if headers is None else headers
        _check(url, bodies[0], headers)
        self._folder = tempfile.TemporaryDirectory()
        files = [Path(self._folder.name, str(number)) for number in range(len(bodies))]
        for file, body in zip(files, bodies, strict=True):
            file.write_bytes(body)
        options = [f"--header={name}: {value}" for name, value in headers.items()]
        options += ["--threads=1", f"--connections={connections}", f"--duration={seconds}s"]
        pause = {} if pause_ms is None else {"WRK_PAUSE_MS": str(pause_ms)}
        with on_core(core):
            self._process = subprocess.Popen(
                ["wrk", *options, "--script=tests/load/wrk.lua", url, "--", *map(str, files)],
                cwd=ROOT,
                env=os.environ | pause,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def is_running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> Result:
        """Waits for the end of the run.

        Raises:
            RuntimeError: wrk failed; the text is its output.
        """
        output, _ = self._process.communicate()
        self._folder.cleanup()
        last_line = output.strip().rpartition("\n")[2]
        if self._process.returncode != 0 or not last_line.startswith("{"):
            raise RuntimeError(f"wrk failed:\n{output}")
        found = json.loads(last_line)
        return Result(
            answered=found["requests"] - found["non_2xx"],
            seconds=found["microseconds"] / 1e6,
            p50_ms=found["p50"] / 1e3,
            p95_ms=found["p95"] / 1e3,
            p99_ms=found["p99"] / 1e3,
            non_2xx=found["non_2xx"],
            unanswered=found["unanswered"],
        )


@dataclass(frozen=True)
class Load:
    """Requests of one kind, from a number of connections."""

    path: str
    connections: int = 1
    bodies: Sequence[bytes] | None = None
    headers: Mapping[str, str] | None = None

    def start(
        self, address: str, seconds: int, *, core: int | None = None, pause_ms: int | None = None
    ) -> Wrk:
        """wrk, at the server of this address; see `Wrk`."""
        return Wrk(
            address + self.path,
            self.connections,
            seconds,
            bodies=self.bodies,
            headers=self.headers,
            core=core,
            pause_ms=pause_ms,
        )


def _check(url: str, body: bytes, headers: Mapping[str, str]) -> None:
    response = httpx.post(url, content=body, headers=dict(headers), trust_env=False, timeout=30)
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS:  # of a server under load
        response.raise_for_status()


def require_wrk() -> None:
    """Ends the script with a message where wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed (Debian: apt-get install wrk)")
