"""Whether 28x28 images as V2 tensors are answered as fast as PNG files on the native route.

`python -m tests.load.v2_rate` starts one worker on one core and asks it from the other, in rounds:
the same digit as a PNG to `/predict`, and as UINT8 pixels behind a JSON header, the way
tritonclient sends it, to the V2 model. The ratio is the median of the rounds' own ratios. On a
machine that has others to serve, the server's processor time tells more than the clock.
"""

import argparse
import os
import sys
from base64 import b64decode
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop

from app.api.examples import example_pixels, example_png_base64
from app.cli.machine import describe_machine
from app.load_client import Target, post, run_closed_loop
from app.scoring.on_cores import usable_cores
from tests.app.open_inference.inference_requests import binary_body
from tests.conftest import ServerStarter
from tests.load.overload import on_core

_WARM_UP_SECONDS = 1.0


def v2_target(base: str, *, model: str = "mnist") -> Target:
    """The digit as tritonclient sends it: no Content-Type, every output as raw data."""
    parts = urlsplit(base)
    body = binary_body(example_pixels()[None])
    lines = [
        f"POST /v2/models/{model}/infer HTTP/1.1",
        f"Host: {parts.netloc}",
        f"Content-Length: {len(body.content)}",
        *(f"{name}: {value}" for name, value in body.all_headers.items()),
    ]
    head = "".join(f"{line}\r\n" for line in lines) + "\r\n"
    return Target(parts.hostname or "", parts.port or 80, False, (head.encode() + body.content,))


class Rate(NamedTuple):
    """Requests answered a second, of the clock and of the server's own processor time."""

    by_clock: float
    by_processor: float


async def rate(target: Target, pid: int, connections: int, seconds: float) -> Rate:
    """What the server reaches; only successes may come."""
    before = processor_seconds(pid)
    measurement = await run_closed_loop(target, connections, seconds)
    spent = processor_seconds(pid) - before
    assert set(measurement.latencies) == {"200"}, sorted(measurement.latencies)
    assert not measurement.failures, measurement.failures
    return Rate(measurement.in_time / seconds, len(measurement.latencies["200"]) / spent)


def processor_seconds(pid: int) -> float:
    """What a process has taken of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(
    base: str, pid: int, connections: int, seconds: float, rounds: int
) -> list[tuple[float, float]]:
    """Prints every round, and returns the rounds' ratios V2 / native, by clock and by processor."""
    targets = {
        "png": post(f"{base}/predict", [b64decode(example_png_base64())], "image/png"),
        "v2": v2_target(base),
    }
    for target in targets.values():
        await rate(target, pid, connections, _WARM_UP_SECONDS)
    ratios = []
    for number in range(rounds):
        # Each order in turn, so that a machine that warms up favours neither.
        names = list(targets) if number % 2 == 0 else list(targets)[::-1]
        rates = {name: await rate(targets[name], pid, connections, seconds) for name in names}
        png, v2 = rates["png"], rates["v2"]
        ratios.append((v2.by_clock / png.by_clock, v2.by_processor / png.by_processor))
        say(
            f"round {number + 1}: PNG to /predict {png.by_clock:,.0f}/s, "
            f"UINT8 to V2 {v2.by_clock:,.0f}/s, ratio {ratios[-1][0]:.3f}; per second of the "
            f"server's processor time {png.by_processor:,.0f} and {v2.by_processor:,.0f}, "
            f"ratio {ratios[-1][1]:.3f}"
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = usable_cores()
    say(f"{describe_machine()}; {arguments.connections} connections")
    starter = ServerStarter()
    try:
        with on_core(cores[0]):
            server = starter.start()
        with on_core(cores[-1]):
            ratios = uvloop.run(
                measure(
                    server.address,
                    server.process.pid,
                    arguments.connections,
                    arguments.seconds,
                    arguments.rounds,
                )
            )
    finally:
        starter.end_all()
    for name, values in zip(("clock", "processor time"), zip(*ratios, strict=True), strict=True):
        say(f"median ratio by {name} {median(values):.3f} ({min(values):.3f}-{max(values):.3f})")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
