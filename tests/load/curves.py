"""Latency against concurrency, and requests/s against passes, of one worker on one core.

`python -m tests.load.curves` prints both tables; `--figures FOLDER` also draws them (with what
`pip install '.[train]'` brings). Rounds alternate between all points; figures are medians.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import uvloop

from app.api.examples import example_pngs
from app.bench_servers import start_bench_app
from app.cli.machine import describe_machine
from app.load_client import percentile, post, run_closed_loop
from app.scoring.on_cores import usable_cores

CONNECTIONS = (1, 2, 4, 8, 16, 32, 64)
PASSES = (0, 1, 10, 20, 50, 100, 200, 500, 1000)  # 0: dropout off
MOST_CONNECTIONS = 16
# What a worker can do is measured, and not what it refuses.
ROOM = {"DROPSERVE_MAX_QUEUED_PASSES": "100000"}
_WARM_UP_SECONDS = 0.5


async def measure_point(url: str, connections: int, seconds: float) -> tuple[float, float, float]:
    """Requests/s, and the 50th and 99th percentile of the latency, milliseconds.

    Raises:
        RuntimeError: a request failed.
    """
    target = post(url, example_pngs(), "image/png")
    await run_closed_loop(target, connections, min(_WARM_UP_SECONDS, seconds))
    found = await run_closed_loop(target, connections, seconds)
    if found.failures or found.latencies.keys() != {"200"}:
        raise RuntimeError(f"{url}: {found.failures or sorted(found.latencies)}")
    ordered = sorted(found.latencies["200"])
    return (
        found.in_time / seconds,
        percentile(ordered, 50) * 1000,
        percentile(ordered, 99) * 1000,
    )


def url_of(base: str, passes: int) -> str:
    """Where so many passes are asked for; 0: dropout off."""
    return f"{base}/predict/mc?passes={passes}" if passes else f"{base}/predict"


async def measure(
    base: str, rounds: int, seconds: float
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """Medians of what each point has, by passes and connections."""
    points = dict.fromkeys(
        [(passes, count) for passes in (0, 50) for count in CONNECTIONS]
        + [(passes, MOST_CONNECTIONS) for passes in PASSES]
    )
    found: dict[tuple[int, int], list[tuple[float, float, float]]] = {point: [] for point in points}
    for _ in range(rounds):
        for passes, count in points:
            point = await measure_point(url_of(base, passes), count, seconds)
            found[passes, count].append(point)
    return {point: _medians(values) for point, values in found.items()}


def _medians(values: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    first, second, third = (median(each) for each in zip(*values, strict=True))
    return first, second, third


def describe(found: dict[tuple[int, int], tuple[float, float, float]]) -> str:
    """Both tables."""
    lines = ["             ------- predict -------   ------ 50 passes ------"]
    lines.append("connections      /s   p50 ms  p99 ms       /s   p50 ms  p99 ms")
    for count in CONNECTIONS:
        plain, doubt = (
            f"{rate:>8,.0f} {p50:>8.2f} {p99:>7.2f}"
            for rate, p50, p99 in (found[0, count], found[50, count])
        )
        lines.append(f"{count:>11} {plain} {doubt}")
    lines += ["", f"passes  requests/s over {MOST_CONNECTIONS} connections"]
    for passes in PASSES:
        rate, _, _ = found[passes, MOST_CONNECTIONS]
        lines.append(f"{passes or 'off':>6} {rate:>11,.0f}")
    return "\n".join(lines)


def draw(found: dict[tuple[int, int], tuple[float, float, float]], folder: Path) -> None:
    """Draws `latency.svg` and `passes.svg`."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "dropserve"
    from matplotlib import pyplot as plt
    from matplotlib import ticker
    from matplotlib.axes import Axes

    def label_in_full(axes: Axes, ticks: Sequence[int]) -> None:
        """1,000 and not ten to the third; one, two and five of each decade on the y axis."""
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for passes, name in ((0, "predict"), (50, "50 passes")):
        for column, (which, style) in enumerate((("p50", "-"), ("p99", "--")), start=1):
            values = [found[passes, count][column] for count in CONNECTIONS]
            colour = "C0" if passes == 0 else "C1"
            axes.plot(
                CONNECTIONS, values, style, color=colour, label=f"{name}, {which}", marker="."
            )
    axes.set(xscale="log", yscale="log", xlabel="connections", ylabel="latency, ms")
    label_in_full(axes, CONNECTIONS)
    axes.legend(frameon=False)
    figure.savefig(folder / "latency.svg", metadata={"Date": None})
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    passes_asked = [passes for passes in PASSES if passes]
    rates = [found[passes, MOST_CONNECTIONS][0] for passes in passes_asked]
    axes.plot(passes_asked, rates, marker=".", color="C1")
    axes.axhline(found[0, MOST_CONNECTIONS][0], color="C0", linestyle="--", label="dropout off")
    axes.set(xscale="log", yscale="log", xlabel="passes", ylabel="requests/s of one core")
    label_in_full(axes, passes_asked)
    axes.legend(frameon=False)
    figure.savefig(folder / "passes.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one point")
    parser.add_argument("--figures", type=Path, help="folder to draw in")
    arguments = parser.parse_args()
    cores = usable_cores()
    server_core, own_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    with start_bench_app(server_core, ROOM) as base:
        if own_core is not None:
            os.sched_setaffinity(0, {own_core})
        found = uvloop.run(measure(base, arguments.rounds, arguments.seconds))
    sys.stdout.write(f"{describe_machine()}; one worker on one core\n\n{describe(found)}\n")
    if arguments.figures:
        draw(found, arguments.figures)


if __name__ == "__main__":
    main()
