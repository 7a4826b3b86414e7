"""How many workers a rate of requests needs: fitted on some runs, checked on others.

A request uses a core for `fixed + passes * per_pass` seconds, and without dropout for a time of its
own; pictures have other costs than MNIST's form. What is measured is the server's processor time,
which other programs on the machine affect little. `python -m tests.load.capacity` measures one
worker on one core over 16 connections without dropout and at some numbers of passes, fits the
costs, prints how many workers they make of a rate of requests, and then predicts runs that were not
fitted: other passes, other connections, a mix. Figures are medians of the rounds, and in brackets
the lowest and the highest. The exit code is 1 where a prediction is wrong by more than 25 %.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import product
from statistics import median

import numpy as np

from app.cli.machine import describe_machine
from tests.load.curves import UNLIMITED, url_of
from tests.load.processes import assign_cores, processor_seconds
from tests.load.rounds import spread
from tests.load.servers import Server, serving
from tests.load.wrk import IMAGES, Wrk, require_wrk

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
# By kind of image: for each round a load for each of `POINTS`.
Found = Mapping[str, Sequence[Sequence[Load]]]


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


def load(
    server: Server, image: str, loops: Sequence[tuple[int, int]], seconds: int, core: int | None
) -> Load:
    """Loads the server once.

    Args:
        server: with one worker.
        image: the kind that is sent.
        loops: passes and connections of closed loops that run at the same time.
        seconds: duration.
        core: of the load generators.
    """
    before = processor_seconds(server.pid)
    running = [
        Wrk(url_of(server.address, passes), count, seconds, bodies=IMAGES[image], core=core)
        for passes, count in loops
    ]
    answered = [each.result().answered for each in running]
    return processor_seconds(server.pid) - before, answered


def measure(server: Server, seconds: int, rounds: int, core: int | None) -> Found:
    """Loads the server, in each round with each kind of image at all of `POINTS`.

    Every round measures both what is fitted and what is predicted, so that a slow moment of the
    machine affects both.
    """
    for image in IMAGES:
        load(server, image, [(50, CONNECTIONS)], 1, core)  # uncounted: caches fill up
    found: dict[str, list[list[Load]]] = {image: [] for image in IMAGES}
    for _, image in product(range(rounds), IMAGES):
        found[image].append([load(server, image, loops, seconds, core) for loops in POINTS])
    return found


def report(found: Found) -> bool:
    """Prints what some rounds measured; whether every prediction was near enough."""
    print(f"fitted on {CONNECTIONS} connections: dropout off, and {FITTED_PASSES} passes")
    print(f"us of a core{'dropout off':>20}{'fixed':>20}{'a pass':>20}")
    fitted: dict[str, Costs] = {}
    last_fitted = 1 + len(FITTED_PASSES)
    for image, rounds in found.items():
        costs = [fit(each[0], each[1:last_fitted]) for each in map(costs_of, rounds)]
        by_cost = list(zip(*map(astuple, costs), strict=True))
        fitted[image] = Costs(*map(median, by_cost))
        texts = (
            spread((1e6 * each for each in values), form)
            for values, form in zip(by_cost, (".0f", ".0f", ".2f"), strict=True)
        )
        print(f"{image:<12}" + "".join(f"{text:>20}" for text in texts))
    print(f"\nworkers for requests/s, each {UTILISATION:.0%} busy")
    print("passes" + "".join(f"{image:>30}" for image in found))
    print("      " + "".join(f"{rate:>10,}" for rate in _RATES) * len(found))
    for passes in _TABLE_PASSES:
        counts = (fitted[image].workers(rate, passes) for image in found for rate in _RATES)
        print(f"{passes or 'off':>6}" + "".join(f"{count:>10,}" for count in counts))
    print("\nrequests/s of a core in runs that were not fitted   predicted               measured")
    errors = [error for image in found for error in predict(image, found[image], fitted[image])]
    print(f"largest error {max(errors):.0%} (wanted: at most {LARGEST_ERROR:.0%})")
    return max(errors) <= LARGEST_ERROR


def costs_of(loads: Sequence[Load]) -> list[float]:
    """Seconds of an answer at each of `POINTS`."""
    return [used / sum(answers) for used, answers in loads]


def predict(image: str, rounds: Sequence[Sequence[Load]], costs: Costs) -> Iterator[float]:
    """Prints requests/s of what was not fitted; the error of each prediction."""
    measured = list(zip(*map(costs_of, rounds), strict=True))
    for (passes, count), seen in zip(_UNSEEN, measured[-1 - len(_UNSEEN) : -1], strict=True):
        yield compare(f"{image}: {passes} passes, {count} connections", costs.of(passes), seen)
    # Answers of each loop of the mix, over all rounds.
    answers = [sum(each) for each in zip(*(one[-1][1] for one in rounds), strict=True)]
    mixed = sum(n * costs.of(passes) for n, (passes, _) in zip(answers, _MIX, strict=True))
    name = f"{image}: a mix of off, 30 and 100 passes"
    yield compare(name, mixed / sum(answers), measured[-1])


def compare(name: str, predicted: float, measured: Sequence[float]) -> float:
    """Prints requests/s from seconds per request, and returns the error of the prediction."""
    error = median(measured) / predicted - 1
    rates = spread((1 / one for one in measured), ",.0f")
    print(f"{name:<50}  {1 / predicted:>9,.0f} {rates:>22}  {error:+.0%}")
    return abs(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    require_wrk()
    server_core, wrk_core = assign_cores()
    print(f"{describe_machine()}; one worker on one core, median of {options.rounds} rounds")
    with serving(core=server_core, environ=UNLIMITED) as server:
        found = measure(server, options.seconds, options.rounds, wrk_core)
    sys.exit(not report(found))


if __name__ == "__main__":
    main()
