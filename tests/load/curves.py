"""Latency against connections, and requests/s against passes, of one worker on one core.

`python -m tests.load.curves` prints both tables; `--figures FOLDER` also draws them, which needs
the extra `.[train]`. Every round measures all points; figures are medians of the rounds, and in
brackets the lowest and the highest.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median

from app.cli.machine import describe_machine
from tests.load.processes import assign_cores
from tests.load.rounds import Target, failures, latencies, measure, rates
from tests.load.servers import Server, serving
from tests.load.wrk import IMAGES, MNIST_FORM, PICTURE, Result, require_wrk

CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
PASSES = (0, 1, 10, 20, 50, 100, 200, 500, 1000)  # 0: dropout off
# The number of passes of the first table, and the number of connections of the second.
TABLE_PASSES, TABLE_CONNECTIONS = 50, 16
# Requests wait instead of being refused: the worker's own rate is measured.
UNLIMITED = {"DROPSERVE_MAX_WAIT_MS": "60000"}

# Kind of image, passes and connections.
Key = tuple[str, int, int]
# A result for each round.
Points = Mapping[Key, Sequence[Result]]


def url_of(address: str, passes: int) -> str:
    """The route for a number of passes; 0: dropout off."""
    return f"{address}/predict/mc?passes={passes}" if passes else f"{address}/predict"


def describe(found: Points, connections: Sequence[int], passes: Sequence[int]) -> str:
    """Both tables, the first for each kind of image."""
    lines: list[str] = []
    for image in IMAGES:
        lines.append(f"{image:<11} {' predict ':-^38} {f' {TABLE_PASSES} passes ':-^38}")
        lines.append("connections" + f" {'requests/s':>22} {'p50 ms':>7} {'p99 ms':>7}" * 2)
        for count in connections:
            line = f"{count:>11}"
            for each in (0, TABLE_PASSES):
                results = found[image, each, count]
                p50, _, p99 = latencies(results)
                line += f" {rates(results):>22} {p50:>7.2f} {p99:>7.2f}"
            lines.append(line)
        lines.append("")
    lines.append(f"requests/s over {TABLE_CONNECTIONS} connections")
    lines.append("passes" + "".join(f" {image:>22}" for image in IMAGES))
    for each in passes:
        columns = (rates(found[image, each, TABLE_CONNECTIONS]) for image in IMAGES)
        lines.append(f"{each or 'off':>6}" + "".join(f" {column:>22}" for column in columns))
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
        figure.legend(loc="outside right upper", frameon=False)
        figure.savefig(folder / name, metadata={"Date": None})

    def rate(key: Key) -> float:
        return median(one.rate for one in found[key])

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for image, each, colour in (
        (MNIST_FORM, 0, "C0"),
        (MNIST_FORM, TABLE_PASSES, "C1"),
        (PICTURE, TABLE_PASSES, "C2"),
    ):
        name = f"{image}, {each} passes" if each else f"{image}, predict"
        for column, which, style in ((0, "p50", "-"), (2, "p99", "--")):
            values = [latencies(found[image, each, count])[column] for count in connections]
            axes.plot(
                connections, values, style, color=colour, label=f"{name}, {which}", marker="."
            )
    axes.set(xlabel="connections", ylabel="latency, ms")
    save(figure, axes, connections, "latency.svg")
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    stochastic = [each for each in passes if each]
    for image, colour in ((MNIST_FORM, "C1"), (PICTURE, "C2")):
        values = [rate((image, each, TABLE_CONNECTIONS)) for each in stochastic]
        axes.plot(stochastic, values, marker=".", color=colour, label=image)
        off = rate((image, 0, TABLE_CONNECTIONS))
        axes.axhline(off, color=colour, linestyle="--", label=f"{image}, dropout off")
    axes.set(xlabel="passes", ylabel="requests/s of one core")
    save(figure, axes, stochastic, "passes.svg")


def measure_points(
    server: Server,
    keys: Sequence[Key],
    seconds: int,
    rounds: int,
    core: int | None,
) -> Points:
    """The results at some points.

    Raises:
        SystemExit: a request failed.
    """
    points = [(f"{image}, {passes}", count) for image, passes, count in keys]
    targets = {
        name: Target(url_of(server.address, passes), server.pid, IMAGES[image])
        for (image, passes, _), (name, _) in zip(keys, points, strict=True)
    }
    measured = measure(targets, points, seconds, rounds, core)
    if failed := failures(measured):
        sys.exit(f"{failed} requests failed")
    return {
        key: [one[point].result for one in measured]
        for key, point in zip(keys, points, strict=True)
    }


def points_of(connections: Sequence[int], passes: Sequence[int]) -> list[Key]:
    """All that the tables show."""
    pairs = [*product((0, TABLE_PASSES), connections), *product(passes, [TABLE_CONNECTIONS])]
    return [(image, each, count) for image in IMAGES for each, count in dict.fromkeys(pairs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=1, help="of one point")
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
    heading = f"{describe_machine()}; one worker on one core, median of {options.rounds} rounds"
    print(f"{heading}\n\n{describe(found, *shown)}")
    if options.figures:
        draw(found, *shown, options.figures)


if __name__ == "__main__":
    main()
