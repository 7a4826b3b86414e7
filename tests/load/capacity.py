"""How many workers a rate of requests takes: fitted on a few runs, tried on others.

A request takes a core `fixed + passes * per_pass` seconds, and without dropout a time of its own.
`python -m tests.load.capacity` measures one worker on one core over 16 connections without dropout
and at some numbers of passes, fits the two, prints how many workers they make of a rate of
requests, and then predicts runs that were not fitted: other passes, other connections, a mix.
"""

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import uvloop

from app.bench_servers import start_bench_app
from app.load_client import post, run_closed_loop
from app.machine import describe_machine, usable_cores
from tests.load.curves import measure_point, url_of
from tests.load.price_of_doubt import example_body

FITTED_PASSES = (10, 50, 200, 1000)
CONNECTIONS = 16
# A worker that is always busy makes requests wait; the autoscaler aims at the same.
UTILISATION = 0.7
MOST_WRONG = 0.25
_RATES = (100, 1000, 10_000)
_ASKED_PASSES = (0, 50, 100, 300)
_MIX = ((0, 12), (30, 8), (100, 4))  # passes, connections


@dataclass(frozen=True)
class Costs:
    """Seconds of one core."""

    predict: float
    fixed: float
    per_pass: float

    def of(self, passes: int) -> float:
        """What a request costs; 0 passes: dropout off."""
        return self.fixed + passes * self.per_pass if passes else self.predict

    def workers(self, rate: float, passes: int) -> int:
        """Workers for so many requests a second."""
        return math.ceil(rate * self.of(passes) / UTILISATION)


def fit(predict_rate: float, rates: Sequence[float]) -> Costs:
    """Costs of the rates at `FITTED_PASSES`, by least squares of their relative errors."""
    seconds = 1 / np.array(rates)
    design = np.array([[1.0, passes] for passes in FITTED_PASSES]) / seconds[:, None]
    (fixed, per_pass), *_ = np.linalg.lstsq(design, np.ones(len(rates)), rcond=None)
    return Costs(1 / predict_rate, float(fixed), float(per_pass))


async def measure_mix(base: str, seconds: float) -> dict[int, float]:
    """Requests/s by passes, of loops that run at the same time."""
    loops = [
        run_closed_loop(post(url_of(base, passes), example_body(), "image/png"), count, seconds)
        for passes, count in _MIX
    ]
    found = await asyncio.gather(*loops)
    return {passes: one.in_time / seconds for (passes, _), one in zip(_MIX, found, strict=True)}


async def run(base: str, seconds: float) -> bool:
    """Measures, prints, and says whether every prediction was near enough."""
    rates = [
        (await measure_point(url_of(base, passes), CONNECTIONS, seconds))[0]
        for passes in (0, *FITTED_PASSES)
    ]
    costs = fit(rates[0], rates[1:])
    say(f"fitted on {CONNECTIONS} connections: dropout off, and {FITTED_PASSES} passes")
    say(f"  dropout off   {costs.predict * 1e6:>7.0f} us of a core")
    say(f"  MC dropout    {costs.fixed * 1e6:>7.0f} us, and {costs.per_pass * 1e6:.2f} us a pass")
    say("")
    say(f"workers for requests/s, each {UTILISATION:.0%} busy")
    say("passes  " + "".join(f"{rate:>10,}" for rate in _RATES))
    for passes in _ASKED_PASSES:
        counts = "".join(f"{costs.workers(rate, passes):>10,}" for rate in _RATES)
        say(f"{passes or 'off':>6}  {counts}")
    say("")
    say("runs that were not fitted         predicted  measured")
    errors = []
    for passes, count in ((100, 64), (30, 8), (500, 32)):
        measured, *_ = await measure_point(url_of(base, passes), count, seconds)
        name = f"{passes} passes, {count} connections"
        errors.append(compare(name, 1 / costs.of(passes), measured))
    found = await measure_mix(base, seconds)
    total = sum(found.values())
    busy = sum(rate * costs.of(passes) for passes, rate in found.items())
    errors.append(compare("a mix of off, 30 and 100 passes", total / busy, total))
    say(f"largest error {max(errors):.0%} (wanted: at most {MOST_WRONG:.0%})")
    return max(errors) <= MOST_WRONG


def compare(name: str, predicted: float, measured: float) -> float:
    """Prints requests/s, and gives the error of the prediction as a share of what was measured."""
    error = abs(predicted / measured - 1)
    say(f"{name:<32}  {predicted:>9,.0f} {measured:>9,.0f}  {predicted / measured - 1:+.0%}")
    return error


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    arguments = parser.parse_args()
    cores = usable_cores()
    server_core, own_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    say(f"{describe_machine()}; one worker on one core")
    with start_bench_app(server_core) as base:
        if own_core is not None:
            os.sched_setaffinity(0, {own_core})
        is_near = uvloop.run(run(base, arguments.seconds))
    sys.exit(not is_near)


if __name__ == "__main__":
    main()
