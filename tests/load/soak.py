"""What stays behind after a quarter of an hour at 70 % of what the server can: nothing should.

`python -m tests.load.soak` starts a server on one core and asks it for everything in turn, over 16
connections that all rest whenever the server has computed more than 70 % of the time. It prints
what the answers were, and how resident memory and open files went; it fails on an answer that is
not the expected one, on memory that grows by a MB a minute or more, and on files that are left
open.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop
from PIL import Image

from app.api.examples import example_png_base64
from app.cli.machine import describe_machine
from app.scoring.on_cores import usable_cores
from tests.conftest import RunningServer, ServerStarter, sample
from tests.load.overload import on_core, resident_mib, say

SHARE = 0.7
MINUTES = 15.0
WARM_MINUTES = 2.0
MOST_MB_PER_MINUTE = 1.0
_CONNECTIONS = 16
# One of so many requests is of a caller who leaves before the answer.
_LEAVING_ONE_IN = 160
_LOOKING_SECONDS = 0.02
# Connections are closed after each, so that what is still open then has been forgotten.
_SLICE_SECONDS = 15.0
_SETTLING_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0
_MIB, _MB = 2**20, 10**6


@dataclass(frozen=True)
class Kind:
    """A kind of request, how often it is sent among others, and the status it must have."""

    name: str
    request: bytes
    weight: int
    expected: int


def kinds() -> list[Kind]:
    """The mixture: every way to ask, and questions that are refused."""
    # As the network sees it, and pictures that are still to be brought to that.
    seven, doubtful = base64.b64decode(example_png_base64()), sample("doubtful.png")
    encoded = [{"image": base64.b64encode(one).decode()} for one in (seven, doubtful)]
    tensor: dict[str, object] = {
        "name": "pixels",
        "shape": [1, 784],
        "datatype": "UINT8",
        "data": [0, 255] * 392,
    }
    form = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="7.png"\r\n\r\n'
        b"%s\r\n--b--\r\n" % seven
    )
    png, as_json = "image/png", "application/json"
    table = [
        ("predict", "/predict", seven, png, 20, 200),
        ("mc", "/predict/mc", seven, png, 20, 200),
        ("drawing", "/predict/mc", doubtful, png, 5, 200),
        ("mc with passes", "/predict/mc?return_passes=true", seven, png, 3, 200),
        ("stream", "/predict/mc/stream?passes=200", seven, png, 5, 200),
        ("photo", "/predict", _photo(), "image/jpeg", 2, 200),
        ("JSON", "/predict", json.dumps(encoded[0]).encode(), as_json, 5, 200),
        ("form", "/predict", form, "multipart/form-data; boundary=b", 5, 200),
        ("batch", "/predict/mc/batch", _batch(encoded), as_json, 5, 200),
        ("V2", "/v2/models/mnist/infer", _batch([tensor]), as_json, 5, 200),
        ("cut off", "/predict", seven[:100], png, 2, 400),
        ("no image", "/predict", bytes(1000), png, 2, 415),
        ("no such address", "/nowhere", b"", png, 2, 404),
    ]
    return [
        Kind(name, _post(path, body, content_type), weight, expected)
        for name, path, body, content_type, weight, expected in table
    ]


def _post(path: str, body: bytes, content_type: str) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _batch(inputs: Sequence[Mapping[str, object]]) -> bytes:
    return json.dumps({"inputs": inputs}).encode()


def _photo() -> bytes:
    """A digit as a JPEG of 640x480, on noisy paper."""
    paper = np.random.default_rng(0).integers(190, 230, (480, 640), dtype=np.uint8)
    with Image.open(io.BytesIO(sample("3.png"))) as opened:
        ink = np.asarray(opened.convert("L").resize((300, 300)))
    paper[90:390, 170:470] = np.minimum(paper[90:390, 170:470], 255 - ink)
    buffer = io.BytesIO()
    Image.fromarray(paper).save(buffer, "JPEG")
    return buffer.getvalue()


@dataclass
class Soaked:
    """What a run found.

    Attributes:
        outcomes: how often each kind had which status.
        unexpected: those that were not the expected one, and requests without an answer.
        busy: which part of the time the server computed.
        memory: minutes since the start, and resident MiB, at the end of each slice.
        files: open file descriptors then.
    """

    outcomes: dict[str, Counter[int]] = field(default_factory=dict)
    unexpected: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def slope(self, from_minute: float) -> float:
        """Resident memory, MB a minute, by least squares from a minute on."""
        points = [point for point in self.memory if point[0] >= from_minute]
        if len(points) < 2:
            return 0.0
        minutes, mib = zip(*points, strict=True)
        return float(np.polyfit(minutes, np.array(mib) * _MIB / _MB, 1)[0])


async def soak(server: RunningServer, minutes: float, slice_seconds: float) -> Soaked:
    """Loads the server; see the module."""
    soaked, mixture, draw = Soaked(), kinds(), random.Random(0)
    soaked.outcomes = {kind.name: Counter() for kind in mixture}
    pid = server.process.pid
    began, computed = time.monotonic(), _cpu_seconds(pid)
    while (left := began + minutes * 60 - time.monotonic()) > 0:
        await _load(server, mixture, soaked, draw, min(left, slice_seconds))
        await asyncio.sleep(_SETTLING_SECONDS)
        soaked.memory.append(((time.monotonic() - began) / 60, resident_mib(pid)))
        soaked.files.append(_open_files(pid))
    soaked.busy = (_cpu_seconds(pid) - computed) / (time.monotonic() - began)
    return soaked


async def _load(
    server: RunningServer,
    mixture: Sequence[Kind],
    soaked: Soaked,
    draw: random.Random,
    seconds: float,
) -> None:
    pid, pace = server.process.pid, _Pace()
    asking = asyncio.gather(
        *(_keep_asking(server, mixture, soaked, draw, pace) for _ in range(_CONNECTIONS))
    )
    began, computed = time.monotonic(), _cpu_seconds(pid)
    while (passed := time.monotonic() - began) < seconds and not asking.done():
        pace.set(is_going=_cpu_seconds(pid) - computed < SHARE * passed)
        await asyncio.sleep(_LOOKING_SECONDS)
    pace.end()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await asking


class _Pace:
    """Whether another request may be sent: now, later, or not any more."""

    def __init__(self) -> None:
        self._gate = asyncio.Event()
        self._is_over = False

    def set(self, *, is_going: bool) -> None:
        if is_going:
            self._gate.set()
        else:
            self._gate.clear()

    def end(self) -> None:
        self._is_over = True
        self._gate.set()

    async def may_go_on(self) -> bool:
        await self._gate.wait()
        return not self._is_over


async def _keep_asking(
    server: RunningServer,
    mixture: Sequence[Kind],
    soaked: Soaked,
    draw: random.Random,
    pace: _Pace,
) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    weights = [kind.weight for kind in mixture]
    while await pace.may_go_on():
        (kind,) = draw.choices(mixture, weights)
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await _ask(reader, writer, kind, soaked)
        if draw.randrange(_LEAVING_ONE_IN) == 0:
            await _leave_early(host, int(port), draw)
    writer.close()


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: Kind, soaked: Soaked
) -> None:
    writer.write(kind.request)
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            while (await reader.readuntil(b"\r\n")) != b"0\r\n":
                await reader.readuntil(b"\r\n")
            await reader.readexactly(2)
        else:
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
    except (EOFError, OSError) as error:
        soaked.unexpected[f"{kind.name}: {type(error).__name__}"] += 1
        raise
    status = int(head.split()[1])
    soaked.outcomes[kind.name][status] += 1
    if status != kind.expected:
        soaked.unexpected[f"{kind.name}: {status}"] += 1


async def _leave_early(host: str, port: int, draw: random.Random) -> None:
    """A caller asks for much, or for half, and goes away."""
    request = _post("/predict/mc?passes=1000", sample("7.png"), "image/png")
    _, writer = await asyncio.open_connection(host, port)
    writer.write(request if draw.randrange(2) else request[:-10])
    await writer.drain()
    writer.close()


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe(soaked: Soaked) -> list[str]:
    """Lines that say what was found."""
    lines = [f"{name}: {dict(outcomes)}" for name, outcomes in soaked.outcomes.items()]
    total = sum(sum(outcomes.values()) for outcomes in soaked.outcomes.values())
    minutes = soaked.memory[-1][0]
    lines.append(
        f"{total:,} answers in {minutes:.1f} minutes; unexpected: "
        f"{dict(soaked.unexpected) or 'none'}; the server computed {soaked.busy:.0%} of the time"
    )
    samples = " ".join(f"{mib:.0f}" for _, mib in soaked.memory[::4])
    lines.append(f"resident MiB, each minute: {samples}")
    lines.append(
        f"memory: {soaked.slope(WARM_MINUTES):+.3f} MB a minute from minute {WARM_MINUTES:g} on "
        f"(wanted: below {MOST_MB_PER_MINUTE:g})"
    )
    lines.append(f"open files after each slice: {min(soaked.files)} to {max(soaked.files)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("serve", nargs="*", help="options of serve, after --")
    arguments = parser.parse_args()
    cores = usable_cores()
    say(describe_machine())
    starter = ServerStarter()
    try:
        with on_core(cores[0]):
            server = starter.start(*arguments.serve)
        with on_core(cores[-1]):
            soaked = uvloop.run(soak(server, arguments.minutes, _SLICE_SECONDS))
    finally:
        starter.end_all()
    for line in describe(soaked):
        say(line)
    has_leak = soaked.slope(WARM_MINUTES) >= MOST_MB_PER_MINUTE
    if soaked.unexpected or has_leak or max(soaked.files) > soaked.files[0]:
        sys.exit(1)


if __name__ == "__main__":
    main()
