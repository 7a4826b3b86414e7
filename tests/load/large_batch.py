"""The time of a large batch over HTTP, compared with decoding its images and with the engine alone.

`python -m tests.load.large_batch` starts a server on one core and, from another, sends a batch of
256 images with 50 passes, as JSON and as a form with files. Between any two batches this process
does the same work on the server's core: it decodes the PNG files, and runs the engine on them:
layer 1, the passes and their statistics, as `dropserve bench engine` times it.
"""

import argparse
import json
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from statistics import median
from typing import Any

import httpx

from app.api.examples import example_pngs
from app.cli.machine import describe_machine
from app.inference.decoding import decode_inline
from model.arrays import Pixels
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines import build_engine
from model.engines.protocol import Engine, sample_probs
from model.sampling.masks import Passes
from model.uncertainty.statistics import summarise
from tests.load.processes import assign_cores, on_core
from tests.load.servers import serving
from tests.samples.draw import preprocess_image


@dataclass(frozen=True)
class Round:
    """Seconds of a batch in each form, of decoding its files, and of the engine."""

    batches: dict[str, float]
    decoding: float
    engine: float

    def ratio(self, form: str) -> float:
        """The batch without the decoding of its files, over the engine."""
        return (self.batches[form] - self.decoding) / self.engine


def measure(
    address: str, core: int | None, images: int, passes: int, rounds: int
) -> Iterator[Round]:
    """Batch, decoding and engine in turn, all on the server's core, as cores differ in speed."""
    engine = build_engine(load_checkpoint(DEFAULT_CHECKPOINT).network)
    pngs = example_pngs()
    files = [pngs[number % len(pngs)] for number in range(images)]
    bodies: dict[str, Any] = {
        "JSON": {"json": {"inputs": [{"image": b64encode(file).decode()} for file in files]}},
        "form": {"files": [("file", file) for file in files]},
    }
    path = f"/predict/mc/batch?passes={passes}&seed=1"
    requests = {
        form: httpx.Request("POST", address + path, **body) for form, body in bodies.items()
    }
    # httpx builds the bodies, but it would take two milliseconds to read the answer.
    with closing(HTTPConnection(address.removeprefix("http://"), timeout=60)) as connection:
        for number in range(rounds + 1):
            batches = {}
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
                started = time.perf_counter()
                pixels = [_decode(file) for file in files]
                decoded = time.perf_counter()
                _compute(engine, pixels, passes)
                computed = time.perf_counter()
            if number > 0:  # the first fills the caches
                yield Round(batches, decoded - started, computed - decoded)


def _decode(file: bytes) -> Pixels:
    grey = decode_inline(file, max_pixels=784)
    assert grey is not None
    return preprocess_image(grey)


def _compute(engine: Engine, pixels: list[Pixels], passes: int) -> None:
    for image in pixels:
        summarise(sample_probs(engine, image, Passes(passes, 1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    server_core, own_core = assign_cores()
    with serving(core=server_core) as server, on_core(own_core):
        counts = options.images, options.passes, options.rounds
        rounds = list(measure(server.address, server_core, *counts))
    print(f"{describe_machine()}; {options.images} images, {options.passes} passes, medians")
    print(f"  decoding the PNGs   {median(one.decoding for one in rounds) * 1e3:.1f} ms")
    print(f"  the engine alone    {median(one.engine for one in rounds) * 1e3:.1f} ms")
    for form in rounds[0].batches:
        batch = median(one.batches[form] for one in rounds)
        ratio = median(one.ratio(form) for one in rounds)
        print(f"  the batch as {form}   {batch * 1e3:.1f} ms")
        print(f"as {form}, without the decoding, over the engine: {ratio:.2f}")


if __name__ == "__main__":
    main()
