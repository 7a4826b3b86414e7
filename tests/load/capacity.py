"""How many workers a rate of requests takes: fitted on a few runs, tried on others.

A request takes a core `fixed + passes * per_pass` seconds, and without dropout a time of its own.
What is measured is the server's own processor time, which a busy neighbour changes little.
`python -m tests.load.capacity` measures one worker on one core over 16 connections without dropout
and at some numbers of passes, fits both, prints how many workers they make of a rate of
requests, and then predicts runs that were not fitted: other passes, other connections, a mix.
"""

import argparse
import asyncio
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import uvloop

from app.api.examples import example_pngs
from app.bench_servers import start_bench_app
from app.cli.machine import describe_machine
from app.load_client import post, run_closed_loop
from app.scoring.on_cores import usable_cores
from tests.load.curves import ROOM, url_of

FITTED_PASSES = (10, 50, 200, 1000)
CONNECTIONS = 16
# A worker that is always busy makes requests wait; the autoscaler aims at the same.
UTILISATION = 0.7
MOST_WRONG = 0.25
_RATES = (100, 1000, 10_000)
_ASKED_PASSES = (0, 50, 100, 300)
# What is predicted: passes, connections.
_UNSEEN = ((30, 8), (100, 64), (500, 32))
_MIX = ((0, 12), (30, 8), (100, 4))


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


def fit(predict: float, costs: Sequence[float]) -> Costs:
    """Costs of the times at `FITTED_PASSES`, by least squares of their relative errors.

    Args:
        predict: seconds of a request without dropout.
        costs: seconds of a request at each number of passes.
    """
    design = np.array([[1.0, passes] for passes in FITTED_PASSES]) / np.array(costs)[:, None]
    (fixed, per_pass), *_ = np.linalg.lstsq(design, np.ones(len(costs)), rcond=None)
    return Costs(predict, float(fixed), float(per_pass))


class Server:
    """A server whose processor time is read."""

    def __init__(self, base: str, pid: int) -> None:
        self._base, self._stat = base, Path(f"/proc/{pid}/stat")

    async def ask(
        self, loops: Sequence[tuple[int, int]], seconds: float
    ) -> tuple[float, list[int]]:
        """Processor seconds that it took, and the answers of each loop.

        Args:
            loops: passes and connections of those that run at the same time.
            seconds: how long.
        """
        before = self._used()
        found = await asyncio.gather(
            *(
                run_closed_loop(
                    post(url_of(self._base, passes), example_pngs(), "image/png"), count, seconds
                )
                for passes, count in loops
            )
        )
        return self._used() - before, [len(one.latencies["200"]) for one in found]

    def _used(self) -> float:
        fields = self._stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def run(server: Server, seconds: float, rounds: int) -> bool:
    """Measures, prints, and says whether every prediction was near enough.

    Every round measures what is fitted and what is predicted, so that a slow moment of the machine
    is in both.
    """
    points = [[(passes, CONNECTIONS)] for passes in (0, *FITTED_PASSES)]
    points += [[point] for point in _UNSEEN] + [list(_MIX)]
    await server.ask([(50, CONNECTIONS)], seconds)  # uncounted: first times
    found = [[await server.ask(loops, seconds) for loops in points] for _ in range(rounds)]
    measured = [
        median(used / sum(answers) for used, answers in each) for each in zip(*found, strict=True)
    ]
    costs = fit(measured[0], measured[1 : 1 + len(FITTED_PASSES)])
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
    say("requests/s of a core in runs that were not fitted   predicted  measured")
    errors = [
        compare(f"{passes} passes, {count} connections", costs.of(passes), cost)
        for (passes, count), cost in zip(_UNSEEN, measured[-1 - len(_UNSEEN) : -1], strict=True)
    ]
    shares = [
        sum(each)
        for each in zip(*(answers for _, answers in (each[-1] for each in found)), strict=True)
    ]
    mixed = sum(n * costs.of(passes) for n, (passes, _) in zip(shares, _MIX, strict=True))
    errors.append(compare("a mix of off, 30 and 100 passes", mixed / sum(shares), measured[-1]))
    say(f"largest error {max(errors):.0%} (wanted: at most {MOST_WRONG:.0%})")
    return max(errors) <= MOST_WRONG


def compare(name: str, predicted: float, measured: float) -> float:
    """Prints requests/s from the seconds of one, and gives the error of the prediction."""
    error = measured / predicted - 1
    say(f"{name:<50}  {1 / predicted:>9,.0f} {1 / measured:>9,.0f}  {error:+.0%}")
    return abs(error)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cores = usable_cores()
    server_core, own_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    say(f"{describe_machine()}; one worker on one core, median of {arguments.rounds} rounds")
    with start_bench_app(server_core, ROOM) as base:
        if own_core is not None:
            os.sched_setaffinity(0, {own_core})
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        server = Server(base, int(children[0]))
        is_near = uvloop.run(run(server, arguments.seconds, arguments.rounds))
    sys.exit(not is_near)


if __name__ == "__main__":
    main()
