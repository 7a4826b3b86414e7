"""How many workers a rate of requests needs: fitted on some runs, checked on others.

A request uses a core for `fixed + passes * per_pass` seconds, and without dropout for a time of its
own. What is measured is the server's processor time, which other programs on the machine affect
little. `python -m tests.load.capacity` measures one worker on one core over 16 connections without
dropout and at some numbers of passes, fits both costs, prints how many workers they make of a rate
of requests, and then predicts runs that were not fitted: other passes, other connections, a mix.
The exit code is 1 where a prediction is wrong by more than 25 %.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from app.cli.machine import describe_machine
from tests.load.curves import UNLIMITED, url_of
from tests.load.processes import assign_cores, processor_seconds
from tests.load.servers import Server, serving
from tests.load.wrk import Wrk, require_wrk

FITTED_PASSES = (10, 50, 200, 1000)
CONNECTIONS = 16
# A worker that is always busy makes requests wait; the autoscaler aims at the same.
UTILISATION = 0.7
LARGEST_ERROR = 0.25
_RATES = (100, 1000, 10_000)
_TABLE_PASSES = (0, 50, 100, 300)
# Runs that are predicted: passes, connections.
_UNSEEN = ((30, 8), (100, 64), (500, 32))
_MIX = ((0, 12), (30, 8), (100, 4))
# What is measured: closed loops that run at the same time, each of passes and connections.
POINTS: Sequence[Sequence[tuple[int, int]]] = (
    *([(passes, CONNECTIONS)] for passes in (0, *FITTED_PASSES)),
    *([point] for point in _UNSEEN),
    _MIX,
)

# Processor seconds that the server used, and the number of answers of each loop.
Load = tuple[float, list[int]]


@dataclass(frozen=True)
class Costs:
    """Seconds of one core."""

    predict: float
    fixed: float
    per_pass: float

    def of(self, passes: int) -> float:
        """The cost of a request; 0 passes: dropout off."""
        return self.fixed + passes * self.per_pass if passes else self.predict

    def workers(self, rate: float, passes: int) -> int:
        """Workers for a number of requests per second."""
        return math.ceil(rate * self.of(passes) / UTILISATION)


def fit(predict: float, costs: Sequence[float]) -> Costs:
    """Costs fitted to the times at `FITTED_PASSES`, by least squares of their relative errors.

    Args:
        predict: seconds of a request without dropout.
        costs: seconds of a request at each number of passes.
    """
    design = np.array([[1.0, passes] for passes in FITTED_PASSES]) / np.array(costs)[:, None]
    (fixed, per_pass), *_ = np.linalg.lstsq(design, np.ones(len(costs)), rcond=None)
    return Costs(predict, float(fixed), float(per_pass))


def load(server: Server, loops: Sequence[tuple[int, int]], seconds: int, core: int | None) -> Load:
    """Loads the server once.

    Args:
        server: with one worker.
        loops: passes and connections of closed loops that run at the same time.
        seconds: duration.
        core: of the load generators.
    """
    before = processor_seconds(server.pid)
    running = [
        Wrk(url_of(server.address, passes), count, seconds, core=core) for passes, count in loops
    ]
    answered = [each.result().answered for each in running]
    return processor_seconds(server.pid) - before, answered


def measure(server: Server, seconds: int, rounds: int, core: int | None) -> list[list[Load]]:
    """Loads the server, in each round with all of `POINTS`.

    Every round measures both what is fitted and what is predicted, so that a slow moment of the
    machine affects both.
    """
    load(server, [(50, CONNECTIONS)], 1, core)  # uncounted: caches fill up
    return [[load(server, loops, seconds, core) for loops in POINTS] for _ in range(rounds)]


def report(found: Sequence[Sequence[Load]]) -> bool:
    """Prints what some rounds measured; whether every prediction was near enough."""
    measured = [
        median(used / sum(answers) for used, answers in each) for each in zip(*found, strict=True)
    ]
    costs = fit(measured[0], measured[1 : 1 + len(FITTED_PASSES)])
    print(f"fitted on {CONNECTIONS} connections: dropout off, and {FITTED_PASSES} passes")
    print(f"  dropout off   {costs.predict * 1e6:>7.0f} us of a core")
    print(f"  MC dropout    {costs.fixed * 1e6:>7.0f} us, and {costs.per_pass * 1e6:.2f} us a pass")
    print(f"\nworkers for requests/s, each {UTILISATION:.0%} busy")
    print("passes  " + "".join(f"{rate:>10,}" for rate in _RATES))
    for passes in _TABLE_PASSES:
        counts = "".join(f"{costs.workers(rate, passes):>10,}" for rate in _RATES)
        print(f"{passes or 'off':>6}  {counts}")
    print("\nrequests/s of a core in runs that were not fitted   predicted  measured")
    errors = [
        compare(f"{passes} passes, {count} connections", costs.of(passes), cost)
        for (passes, count), cost in zip(_UNSEEN, measured[-1 - len(_UNSEEN) : -1], strict=True)
    ]
    # Answers of each loop of the mix, over all rounds.
    answers = [sum(each) for each in zip(*(one[-1][1] for one in found), strict=True)]
    mixed = sum(n * costs.of(passes) for n, (passes, _) in zip(answers, _MIX, strict=True))
    errors.append(compare("a mix of off, 30 and 100 passes", mixed / sum(answers), measured[-1]))
    print(f"largest error {max(errors):.0%} (wanted: at most {LARGEST_ERROR:.0%})")
    return max(errors) <= LARGEST_ERROR


def compare(name: str, predicted: float, measured: float) -> float:
    """Prints requests/s from seconds per request, and returns the error of the prediction."""
    error = measured / predicted - 1
    print(f"{name:<50}  {1 / predicted:>9,.0f} {1 / measured:>9,.0f}  {error:+.0%}")
    return abs(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    require_wrk()
    server_core, wrk_core = assign_cores()
    print(f"{describe_machine()}; one worker on one core, median of {options.rounds} rounds")
    with serving(core=server_core, environ=UNLIMITED) as server:
        found = measure(server, options.seconds, options.rounds, wrk_core)
    sys.exit(not report(found))


if __name__ == "__main__":
    main()
