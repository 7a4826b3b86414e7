"""Latency against connections, and requests/s against passes, of one worker on one core.

`python -m tests.load.curves` prints both tables; `--figures FOLDER` also draws them, which needs
the extra `.[train]`. Every round measures all points; figures are medians of the rounds.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.cli.machine import describe_machine
from tests.load.processes import assign_cores
from tests.load.rounds import Target, failures, measure, medians
from tests.load.servers import Server, serving
from tests.load.wrk import require_wrk

CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
PASSES = (0, 1, 10, 20, 50, 100, 200, 500, 1000)  # 0: dropout off
# The number of passes of the first table, and the number of connections of the second.
TABLE_PASSES, TABLE_CONNECTIONS = 50, 16
# Requests wait instead of being refused: the worker's own rate is measured.
UNLIMITED = {"DROPSERVE_MAX_WAIT_MS": "60000"}

# Requests/s, p50, p95 and p99 in milliseconds, by passes and connections.
Points = Mapping[tuple[int, int], tuple[float, float, float, float]]


def url_of(address: str, passes: int) -> str:
    """The route for a number of passes; 0: dropout off."""
    return f"{address}/predict/mc?passes={passes}" if passes else f"{address}/predict"


def describe(found: Points, connections: Sequence[int], passes: Sequence[int]) -> str:
    """Both tables."""
    lines = [f"             ------- predict -------   ------ {TABLE_PASSES} passes ------"]
    lines.append("connections      /s   p50 ms  p99 ms       /s   p50 ms  p99 ms")
    for count in connections:
        columns = (found[0, count], found[TABLE_PASSES, count])
        plain, mc = (f"{rate:>8,.0f} {p50:>8.2f} {p99:>7.2f}" for rate, p50, _, p99 in columns)
        lines.append(f"{count:>11} {plain} {mc}")
    lines += ["", f"passes  requests/s over {TABLE_CONNECTIONS} connections"]
    for each in passes:
        lines.append(f"{each or 'off':>6} {found[each, TABLE_CONNECTIONS][0]:>11,.0f}")
    return "\n".join(lines)


def draw(found: Points, connections: Sequence[int], passes: Sequence[int], folder: Path) -> None:
    """Draws `latency.svg` and `passes.svg`; passes have 0 among them."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "dropserve"
    from matplotlib import pyplot as plt
    from matplotlib import ticker
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    def save(figure: Figure, axes: Axes, ticks: Sequence[int], name: str) -> None:
        """Labels 1,000 instead of ten to the third, and one, two and five of each decade."""
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        axes.legend(frameon=False)
        figure.savefig(folder / name, metadata={"Date": None})

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for each, name, colour in (
        (0, "predict", "C0"),
        (TABLE_PASSES, f"{TABLE_PASSES} passes", "C1"),
    ):
        for column, which, style in ((1, "p50", "-"), (3, "p99", "--")):
            values = [found[each, count][column] for count in connections]
            axes.plot(
                connections, values, style, color=colour, label=f"{name}, {which}", marker="."
            )
    axes.set(xlabel="connections", ylabel="latency, ms")
    save(figure, axes, connections, "latency.svg")
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    stochastic = [each for each in passes if each]
    rates = [found[each, TABLE_CONNECTIONS][0] for each in stochastic]
    axes.plot(stochastic, rates, marker=".", color="C1")
    axes.axhline(found[0, TABLE_CONNECTIONS][0], color="C0", linestyle="--", label="dropout off")
    axes.set(xlabel="passes", ylabel="requests/s of one core")
    save(figure, axes, stochastic, "passes.svg")


def measure_points(
    server: Server,
    keys: Sequence[tuple[int, int]],
    seconds: int,
    rounds: int,
    core: int | None,
) -> Points:
    """Medians at some passes and connections.

    Raises:
        SystemExit: a request failed.
    """
    targets = {str(each): Target(url_of(server.address, each), server.pid) for each, _ in keys}
    points = [(str(each), count) for each, count in keys]
    measured = measure(targets, points, seconds, rounds, core)
    if failed := failures(measured):
        sys.exit(f"{failed} requests failed")
    return {key: medians(measured, point) for key, point in zip(keys, points, strict=True)}


def points_of(connections: Sequence[int], passes: Sequence[int]) -> list[tuple[int, int]]:
    """Passes and connections of all that the tables show."""
    first = [(each, count) for each in (0, TABLE_PASSES) for count in connections]
    return list(dict.fromkeys([*first, *((each, TABLE_CONNECTIONS) for each in passes)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of one point")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--passes", type=int, nargs="+", default=PASSES, help="0: dropout off")
    parser.add_argument("--figures", type=Path, help="folder to draw in")
    options = parser.parse_args()
    require_wrk()
    cores = assign_cores()
    with serving(core=cores[0], environ=UNLIMITED) as server:
        keys = points_of(options.connections, options.passes)
        found = measure_points(server, keys, options.seconds, options.rounds, cores[1])
    shown = (options.connections, options.passes)
    print(f"{describe_machine()}; one worker on one core\n\n{describe(found, *shown)}")
    if options.figures:
        draw(found, *shown, options.figures)


if __name__ == "__main__":
    main()
