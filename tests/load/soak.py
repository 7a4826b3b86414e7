"""Whether a server leaks memory or files in a quarter of an hour at up to 70 % of its capacity.

`python -m tests.load.soak` starts a server on one core and sends it requests of every kind over 16
connections, which all pause whenever the server has computed more than 70 % of the time. It prints
the outcomes, and how resident memory and open files changed. The exit code is 1 after an unexpected
answer, if memory grows by a MB per minute or more, and if files are left open.
"""

import argparse
import asyncio
import base64
import io
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image

from app.api.examples import example_png_base64
from app.cli.machine import describe_machine
from tests.load.decoding import make_picture
from tests.load.processes import (
    assign_cores,
    on_core,
    open_files,
    processor_seconds,
    resident_mib,
)
from tests.load.servers import Server, sample, serving

SHARE = 0.7
MINUTES = 15.0
WARM_MINUTES = 2.0
LARGEST_SLOPE = 1.0  # MB per minute
_CONNECTIONS = 16
# One client in this many leaves before it has its answer.
_LEAVING_ONE_IN = 160
_LEAVING_SECONDS = 0.005
_POLL_SECONDS = 0.02
# All connections are closed after each slice: a file that is open then has been forgotten.
_SLICE_SECONDS = 15.0
_SETTLING_SECONDS = 0.5
_TIMEOUT_SECONDS = 60.0
_MIB, _MB = 2**20, 10**6


@dataclass(frozen=True)
class Kind:
    """A kind of request: its share is its weight among all, and it must have one status."""

    name: str
    path: str
    body: bytes
    content_type: str
    weight: int
    expected: int


def kinds() -> list[Kind]:
    """All routes and forms of requests, and requests that are refused."""
    # An image that needs no preprocessing, and one that does.
    seven, drawing = base64.b64decode(example_png_base64()), sample("doubtful.png")
    encoded = [{"image": base64.b64encode(one).decode()} for one in (seven, drawing)]
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
    return [
        Kind("predict", "/predict", seven, png, 20, 200),
        Kind("mc", "/predict/mc", seven, png, 20, 200),
        Kind("drawing", "/predict/mc", drawing, png, 5, 200),
        Kind("mc with passes", "/predict/mc?return_passes=true", seven, png, 3, 200),
        Kind("stream", "/predict/mc/stream?passes=200", seven, png, 5, 200),
        Kind("photo", "/predict", _photo(), "image/jpeg", 2, 200),
        Kind("JSON", "/predict", json.dumps(encoded[0]).encode(), as_json, 5, 200),
        Kind("form", "/predict", form, "multipart/form-data; boundary=b", 5, 200),
        Kind("batch", "/predict/mc/batch", _inputs(encoded), as_json, 5, 200),
        Kind("batch of 32", "/predict/batch", _inputs(encoded * 16), as_json, 1, 200),
        Kind("12 MP", "/predict/mc", make_picture("12 MP JPEG 88"), "image/jpeg", 1, 200),
        Kind("V2", "/v2/models/mnist/infer", _inputs([tensor]), as_json, 5, 200),
        Kind("cut off", "/predict", seven[:100], png, 2, 400),
        Kind("thin", "/predict", _flat(1, 100_000), png, 2, 413),
        Kind("many pixels", "/predict", _flat(8000, 8000), png, 1, 413),
        Kind("no image", "/predict", bytes(1000), png, 2, 415),
        Kind("no such address", "/nowhere", b"", png, 2, 404),
    ]


def _inputs(inputs: Sequence[Mapping[str, object]]) -> bytes:
    return json.dumps({"inputs": inputs}).encode()


def _flat(width: int, height: int) -> bytes:
    """A picture of a few kB that is large once it is decoded."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


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
    """The result of a run.

    Attributes:
        outcomes: how often each kind had each status.
        unexpected: other statuses than the expected one, and requests without an answer.
        busy: the share of the time in which the server computed.
        memory: minutes since the start, and resident MiB, at the end of each slice.
        files: open file descriptors then.
    """

    outcomes: dict[str, Counter[int]] = field(default_factory=dict)
    unexpected: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def slope(self, from_minute: float) -> float:
        """Growth of resident memory, MB per minute, by least squares from the given minute on."""
        points = [point for point in self.memory if point[0] >= from_minute]
        if len(points) < 2:
            return 0.0
        minutes, mib = zip(*points, strict=True)
        return float(np.polyfit(minutes, np.array(mib) * _MIB / _MB, 1)[0])


async def soak(server: Server, minutes: float, slice_seconds: float) -> Soaked:
    """Loads the server in slices; memory and open files are read after each."""
    soaked, mixture, draw = Soaked(), kinds(), random.Random(0)
    soaked.outcomes = {kind.name: Counter() for kind in mixture}
    began, computed = time.monotonic(), processor_seconds(server.pid)
    while (left := began + minutes * 60 - time.monotonic()) > 0:
        await _load(server, mixture, soaked, draw, min(left, slice_seconds))
        await asyncio.sleep(_SETTLING_SECONDS)
        soaked.memory.append(((time.monotonic() - began) / 60, resident_mib(server.pid)))
        soaked.files.append(open_files(server.pid))
    soaked.busy = (processor_seconds(server.pid) - computed) / (time.monotonic() - began)
    return soaked


async def _load(
    server: Server,
    mixture: Sequence[Kind],
    soaked: Soaked,
    draw: random.Random,
    seconds: float,
) -> None:
    may_send, is_over = asyncio.Event(), False
    weights = [kind.weight for kind in mixture]

    async def keep_sending() -> None:
        while True:
            await may_send.wait()
            if is_over:
                return
            await _send(client, draw.choices(mixture, weights)[0], soaked)
            if draw.randrange(_LEAVING_ONE_IN) == 0:
                await _leave_early(client, draw)

    async with (
        httpx.AsyncClient(
            base_url=server.address, timeout=_TIMEOUT_SECONDS, trust_env=False
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(_CONNECTIONS):
            group.create_task(keep_sending())
        began, computed = time.monotonic(), processor_seconds(server.pid)
        while (passed := time.monotonic() - began) < seconds:
            if processor_seconds(server.pid) - computed < SHARE * passed:
                may_send.set()
            else:
                may_send.clear()
            await asyncio.sleep(_POLL_SECONDS)
        is_over = True
        may_send.set()


async def _send(client: httpx.AsyncClient, kind: Kind, soaked: Soaked) -> None:
    headers = {"content-type": kind.content_type}
    try:
        response = await client.post(kind.path, content=kind.body, headers=headers)
    except httpx.HTTPError as error:
        soaked.unexpected[f"{kind.name}: {type(error).__name__}"] += 1
        return
    soaked.outcomes[kind.name][response.status_code] += 1
    if response.status_code != kind.expected:
        soaked.unexpected[f"{kind.name}: {response.status_code}"] += 1


async def _leave_early(client: httpx.AsyncClient, draw: random.Random) -> None:
    """Cancels an expensive request, after its whole body or half of it."""
    body = sample("7.png")

    async def half() -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        await asyncio.sleep(_TIMEOUT_SECONDS)

    call = client.post("/predict/mc?passes=1000", content=body if draw.randrange(2) else half())
    with suppress(TimeoutError):
        await asyncio.wait_for(call, _LEAVING_SECONDS)


def describe(soaked: Soaked) -> list[str]:
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
        f"memory: {soaked.slope(WARM_MINUTES):+.3f} MB per minute from minute {WARM_MINUTES:g} on "
        f"(wanted: below {LARGEST_SLOPE:g})"
    )
    lines.append(f"open files after each slice: {min(soaked.files)} to {max(soaked.files)}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("serve", nargs="*", help="options of serve, after --")
    options = parser.parse_args()
    server_core, own_core = assign_cores()
    print(describe_machine(), flush=True)
    with serving(*options.serve, core=server_core) as server, on_core(own_core):
        soaked = asyncio.run(soak(server, options.minutes, _SLICE_SECONDS))
    print(*describe(soaked), sep="\n")
    has_leak = soaked.slope(WARM_MINUTES) >= LARGEST_SLOPE
    if soaked.unexpected or has_leak or max(soaked.files) > soaked.files[0]:
        sys.exit(1)


if __name__ == "__main__":
    main()
