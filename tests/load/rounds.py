"""Rounds of measurements, each of which loads all targets one after the other.

A slow moment of a shared machine then affects all of them: figures are medians of the rounds, and
ratios are medians of the ratios within a round.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from tqdm import tqdm

from tests.load.processes import processor_seconds
from tests.load.wrk import Result, Wrk


@dataclass(frozen=True)
class Target:
    """A route of a server with one worker, and its requests; see `Wrk`."""

    url: str
    pid: int
    bodies: Sequence[bytes] | None = None
    headers: Mapping[str, str] | None = None


class Run(NamedTuple):
    """One measurement; `cpu_us` is the server's processor time per answer, microseconds."""

    result: Result
    cpu_us: float


# By target and number of connections.
Point = tuple[str, int]
Round = dict[Point, Run]


def measure(
    targets: Mapping[str, Target],
    points: Sequence[Point],
    seconds: int,
    rounds: int,
    core: int | None,
) -> list[Round]:
    """Measures all points in each round; `core` is that of the load generator."""
    with tqdm(total=(len(targets) + rounds * len(points)), unit="run", disable=None) as bar:

        def run(point: Point, seconds: int) -> Run:
            name, connections = point
            target = targets[name]
            before = processor_seconds(target.pid)
            load = Wrk(
                target.url,
                connections,
                seconds,
                bodies=target.bodies,
                headers=target.headers,
                core=core,
            )
            result = load.result()
            bar.update()
            spent = processor_seconds(target.pid) - before
            return Run(result, spent / max(1, result.answered + result.non_2xx) * 1e6)

        for name in targets:  # uncounted: connections, caches
            run((name, points[-1][1]), 1)
        # The order alternates, so that a machine that warms up favours no target.
        return [
            {point: run(point, seconds) for point in (points if number % 2 else points[::-1])}
            for number in range(rounds)
        ]


def latencies(results: Sequence[Result]) -> tuple[float, float, float]:
    """Medians of the 50th, 95th and 99th percentile, milliseconds."""
    p50, p95, p99 = (
        median(values)
        for values in zip(*((one.p50_ms, one.p95_ms, one.p99_ms) for one in results), strict=True)
    )
    return p50, p95, p99


def rates(results: Sequence[Result]) -> str:
    """Requests/s: the median, the lowest and the highest."""
    return spread((one.rate for one in results), ",.0f")


def spread(values: Iterable[float], form: str) -> str:
    """The median, and of several values in brackets the lowest and the highest."""
    ordered = sorted(values)
    middle, low, high = (format(one, form) for one in (median(ordered), ordered[0], ordered[-1]))
    return middle if len(ordered) == 1 else f"{middle} ({low}-{high})"


def failures(rounds: Sequence[Round]) -> int:
    return sum(run.result.failed for one in rounds for run in one.values())


def ratios(rounds: Sequence[Round], above: Point, below: Point) -> tuple[list[float], list[float]]:
    """Ratios within each round: of requests/s, and of requests per processor second."""
    pairs = [(one[above], one[below]) for one in rounds]
    return (
        [first.result.rate / second.result.rate for first, second in pairs],
        [second.cpu_us / first.cpu_us for first, second in pairs],
    )


def describe(
    rounds: Sequence[Round], points: Sequence[Point], compared: Sequence[tuple[str, str]]
) -> Iterator[str]:
    """A table of the points, and one of the ratios of the compared targets."""
    yield (
        f"{'target':<24} {'connections':>11} {'requests/s':>22} {'p50 ms':>8} {'p95 ms':>8} "
        f"{'p99 ms':>8} {'CPU us':>7}  errors"
    )
    for point in points:
        results = [one[point].result for one in rounds]
        p50, p95, p99 = latencies(results)
        cpu_us = median(one[point].cpu_us for one in rounds)
        failed = sum(one.failed for one in results)
        yield (
            f"{point[0]:<24} {point[1]:>11} {rates(results):>22} {p50:>8.2f} {p95:>8.2f} "
            f"{p99:>8.2f} {cpu_us:>7.0f}  {failed or 'none'}"
        )
    yield (
        f"\n{'ratio (lowest-highest)':<24} {'connections':>11} {'of requests/s':>20}  "
        "of requests per CPU second"
    )
    for count in dict.fromkeys(count for _, count in points):
        for above, below in compared:
            by_clock, by_processor = (
                spread(values, ".3f") for values in ratios(rounds, (above, count), (below, count))
            )
            yield f"{f'{above}/{below}':<24} {count:>11} {by_clock:>20}  {by_processor}"
