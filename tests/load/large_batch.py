"""What a large batch takes over HTTP, against the engine's own time for it and the decoding.

Decoding is from the body to the pixels: base64 or the form first, the PNG files then.

`python -m tests.load.large_batch` starts a server on one core and, from another, sends a batch of
256 images with 50 passes, as JSON and as a form with files; between any two it lets the engine
alone do the same work, in this process but on the server's core: layer 1, the passes and their
statistics, as `dropserve bench engine` times it.
"""

import argparse
import asyncio
import json
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from statistics import median
from typing import Any

import httpx
import torch
from PIL import Image
from starlette.requests import Request
from starlette.types import Message

from app.api.bodies import read_batch_request
from app.api.examples import example_digits
from app.bench_servers import start_bench_app
from app.cli.machine import describe_machine
from app.inference.decoding import decode_inline
from app.schemas import McParameters
from app.scoring.on_cores import usable_cores
from app.settings import Settings
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.digits.preprocessing import Pixels, take_as_it_is
from model.engines.relu_mlp import Engine, PassRange
from model.sampling.masks import Passes
from model.uncertainty.statistics import summarise
from tests.load.overload import on_core, say


@dataclass(frozen=True)
class Round:
    """Seconds."""

    batches: dict[str, float]  # by the form of the body
    reading: dict[str, float]  # of the files out of such a body
    decoding: float  # of the files
    engine: float

    def ratio(self, form: str) -> float:
        """The batch, without its decoding, over the engine."""
        return self.ratio_with_reading(form) - self.reading[form] / self.engine

    def ratio_with_reading(self, form: str) -> float:
        """As if reading the files out of the body were no decoding."""
        return (self.batches[form] - self.decoding) / self.engine


def measure(address: str, core: int, images: int, passes: int, rounds: int) -> Iterator[Round]:
    """Batch, decoding and engine in turns, all on the server's core: no two are equally fast."""
    engine = Engine(load_checkpoint(DEFAULT_CHECKPOINT).network)
    digits = example_digits()
    files = [_as_png(digits[number % len(digits)]) for number in range(images)]
    # httpx makes the bodies; it would take two milliseconds to read the answer.
    with httpx.Client(base_url=address) as client:
        bodies: dict[str, Any] = {
            "JSON": {"json": {"inputs": [{"image": b64encode(file).decode()} for file in files]}},
            "form": {"files": [("file", file) for file in files]},
        }
        path = f"/predict/mc/batch?passes={passes}&seed=1"
        requests = {
            form: client.build_request("POST", path, **body) for form, body in bodies.items()
        }
    with closing(HTTPConnection(address.removeprefix("http://"), timeout=60)) as connection:
        for number in range(rounds + 1):
            batches, reading = {}, {}
            for form, request in requests.items():
                content, headers = request.read(), dict(request.headers)
                started = time.perf_counter()
                connection.request("POST", path, content, headers)
                response = connection.getresponse()
                answer = response.read()
                batches[form] = time.perf_counter() - started
                assert response.status == 200
                assert len(json.loads(answer)["predictions"]) == images
                with on_core(core):
                    read, reading[form] = asyncio.run(_read(content, headers))
                assert read == files
            with on_core(core):
                started = time.perf_counter()
                pixels = [_decode(file) for file in files]
                decoded = time.perf_counter()
                _compute(engine, pixels, passes)
                computed = time.perf_counter()
            if number > 0:  # the first is for the caches
                yield Round(batches, reading, decoded - started, computed - decoded)


async def _read(body: bytes, headers: Mapping[str, str]) -> tuple[list[Any], float]:
    """The files, as the server finds them, and the seconds that it took."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "headers": encoded, "query_string": b""}
    started = time.perf_counter()
    asked = await read_batch_request(Request(scope, receive), McParameters, Settings())
    return asked.images, time.perf_counter() - started


def _decode(file: bytes) -> Pixels:
    """As the server does."""
    grey = decode_inline(file, max_pixels=784)
    assert grey is not None
    read = take_as_it_is(grey, "auto")
    assert read is not None
    return read.pixels


def _as_png(pixels: Pixels) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _compute(engine: Engine, pixels: list[Pixels], passes: int) -> None:
    images = engine.prepare(pixels, [Passes(passes, 1)] * len(pixels))
    for probs in engine.sample([PassRange(image, 0, passes) for image in images]):
        summarise(probs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cores = usable_cores()
    with start_bench_app(cores[0]) as address, on_core(cores[-1]):
        asked = arguments.images, arguments.passes, arguments.rounds
        rounds = list(measure(address, cores[0], *asked))
    say(f"{describe_machine()}; {arguments.images} images, {arguments.passes} passes, medians")
    for form in rounds[0].batches:
        say(f"  the batch as {form}   {_ms([one.batches[form] for one in rounds])}")
    for form in rounds[0].reading:
        say(f"  reading the {form}    {_ms([one.reading[form] for one in rounds])}")
    say(f"  decoding the PNGs   {_ms([one.decoding for one in rounds])}")
    say(f"  the engine alone    {_ms([one.engine for one in rounds])}")
    for form in rounds[0].batches:
        ratio = median(one.ratio(form) for one in rounds)
        strict = median(one.ratio_with_reading(form) for one in rounds)
        say(
            f"as {form}, without its decoding, over the engine: {ratio:.2f} (wanted: at most 1.1); "
            f"with the reading of the {form}: {strict:.2f}"
        )


def _ms(seconds: list[float]) -> str:
    return f"{median(seconds) * 1e3:.1f} ms"


if __name__ == "__main__":
    main()
