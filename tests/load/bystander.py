"""What a small request waits while others ask for much.

`python -m tests.load.bystander` starts a server and prints the latency of one polite client, who
sends one request at a time: alone, then while other clients send requests of 1000 passes, one batch
after another, or photos of 12 megapixels. Nobody is to be refused, and the client to wait a few
milliseconds longer than when it is alone.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import httpx

from app.api.examples import example_pngs
from app.cli.machine import describe_machine
from tests.load.decoding import make_picture
from tests.load.processes import assign_cores
from tests.load.servers import serving
from tests.load.wrk import Load, Result, Wrk, require_wrk

BATCH_IMAGES = 256
POLITE = {"/predict": "/predict", "/predict/mc": "/predict/mc?passes=50&seed=1"}
WANTED_P50_MS, WANTED_P99_MS = 5, 25


def batch(images: int, passes: int) -> Load:
    """One batch after another."""
    pngs = example_pngs()
    files = [
        ("file", ("digit.png", pngs[number % len(pngs)], "image/png")) for number in range(images)
    ]
    form = httpx.Request("POST", "http://127.0.0.1", files=files)
    headers = {"content-type": form.headers["content-type"]}
    return Load(f"/predict/mc/batch?passes={passes}&seed=1", 1, [form.read()], headers)


def others() -> dict[str, Load]:
    """The loads by name."""
    photo, jpeg = [make_picture("12 MP JPEG 88")], {"content-type": "image/jpeg"}
    return {
        "16 x 1000 passes": Load("/predict/mc?passes=1000&seed=1", 16),
        f"batch of {BATCH_IMAGES} x 1000 passes": batch(BATCH_IMAGES, 1000),
        "2 x photos of 12 MP": Load("/predict/mc?seed=1", 2, photo, jpeg),
        "4 x photos of 12 MP": Load("/predict/mc?seed=1", 4, photo, jpeg),
    }


@dataclass(frozen=True)
class Wait:
    """One round of one route under one load; differences to the quiet latencies, milliseconds."""

    p50_ms: float
    p99_ms: float
    polite: Result
    others: Result

    @property
    def refused(self) -> int:
        return self.polite.failed + self.others.non_2xx


def measure(address: str, load: Load, path: str, seconds: int, core: int | None) -> Wait:
    """The polite client's latency without and with the load."""

    def polite() -> Result:
        return Wrk(address + path, 1, seconds, core=core).result()

    quiet = polite()
    loading = load.start(address, seconds + 1, core=core)
    loaded = polite()
    return Wait(
        loaded.p50_ms - quiet.p50_ms, loaded.p99_ms - quiet.p99_ms, loaded, loading.result()
    )


def describe(name: str, path: str, rounds: Sequence[Wait]) -> Iterator[str]:
    """The medians of the rounds."""
    p50 = median(one.p50_ms for one in rounds)
    p99 = median(one.p99_ms for one in rounds)
    refused = sum(one.refused for one in rounds)
    answered = median(one.others.rate for one in rounds)
    yield (
        f"{name:30} {path:12} p50 {p50:+6.1f} ms, p99 {p99:+6.1f} ms, refused {refused or 'none'}; "
        f"the others got {answered:.1f} answers/s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each load")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    require_wrk()
    server_core, own_core = assign_cores()
    print(describe_machine())
    print(f"wanted: p50 at most {WANTED_P50_MS} ms and p99 {WANTED_P99_MS} ms above the quiet ones")
    with serving(core=server_core) as server:
        for name, load in others().items():
            for path, address in POLITE.items():
                rounds = [
                    measure(server.address, load, address, options.seconds, own_core)
                    for _ in range(options.rounds)
                ]
                for line in describe(name, path, rounds):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
