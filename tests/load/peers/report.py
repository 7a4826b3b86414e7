"""The tables of the comparison.

`python -m tests.load.peers.report` prints every measurement of the last comparison on this machine.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from tests.load.peers.servers import CACHE
from tests.load.rounds import spread
from tests.load.wrk import Result

_OURS = "Dropserve"
LAST = CACHE / "comparison.json"
_WORDS = {
    "predict": "deterministic",
    "mc": "MC dropout",
    "loop": "textbook loop",
    "expanded": "one expanded batch",
}


@dataclass(frozen=True)
class Key:
    name: str
    batching: str
    image: str
    task: str
    connections: int


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        load: wrk's result.
        memory: of all processes of the server, MiB.
        start_seconds: from the server's start to its first answer.
    """

    load: Result
    memory: float
    start_seconds: float


@dataclass(frozen=True)
class Comparison:
    """All measurements.

    Attributes:
        heading: the machine and what was done.
        sizes: megabytes of each server's virtual environment.
        cells: one for each round.
    """

    heading: str
    sizes: Mapping[str, float]
    cells: Mapping[Key, Sequence[Cell]]


def save(comparison: Comparison) -> None:
    cells = [(asdict(key), list(map(asdict, found))) for key, found in comparison.cells.items()]
    LAST.write_text(json.dumps([comparison.heading, comparison.sizes, cells]))


def last() -> Comparison:
    """The comparison that was saved last."""
    heading, sizes, cells = json.loads(LAST.read_text())
    return Comparison(
        heading,
        sizes,
        {
            Key(**key): [Cell(**one | {"load": Result(**one["load"])}) for one in found]
            for key, found in cells
        },
    )


def summary(comparison: Comparison) -> str:
    """Our requests/s and their ratios to those of each peer, start, memory and size."""
    points = dict.fromkeys((key.image, key.connections) for key in comparison.cells)
    # The one that has pictures first.
    compared = [count for _, count in points]
    ordered = sorted(points, key=lambda point: -compared.count(point[1]))
    blocks = [_ratios(comparison.cells, *point) for point in ordered]
    blocks.insert(1 + (len({image for image, _ in points}) > 1), _costs(comparison))
    return "\n\n".join([comparison.heading, *("\n".join(block) for block in blocks)])


def _ratios(cells: Mapping[Key, Sequence[Cell]], image: str, connections: int) -> Iterator[str]:
    """Medians of the ratios within a round, and the lowest and the highest ratio."""
    best = {
        (key.name, key.task): cells[key]
        for key in best_configurations(cells)
        if (key.image, key.connections) == (image, connections)
    }
    tasks = [task for task in _WORDS if task != "mc"]
    start = f"{image}, {connections} connection" + "s" * (connections > 1)
    yield f"{start:<26}" + "".join(f"{_WORDS[task]:>24}" for task in tasks)
    for name in dict.fromkeys(name for name, _ in best):
        is_ours, texts = (name, "mc") in best, []
        for task in tasks:
            of_ours = task if task == "predict" else "mc"
            mine, theirs = best[_OURS, of_ours], best.get((name, of_ours if is_ours else task), ())
            if name == _OURS:
                texts.append(spread((one.load.rate for one in mine), ",.0f"))
            elif not all(one.load.rate for one in theirs) or not theirs:
                texts.append("no answers")
            else:
                pairs = zip(mine, theirs, strict=True)
                texts.append(spread((our.load.rate / one.load.rate for our, one in pairs), ".1f"))
        label = f"{name}, requests/s" if name == _OURS else f"  over {name}"
        yield f"{label:<26}" + "".join(f"{text:>24}" for text in texts)


def _costs(comparison: Comparison) -> Iterator[str]:
    yield f"{'':<26}{'start, s':>24}{'memory, MiB':>24}{'installed, MB':>24}"
    for name, size in comparison.sizes.items():
        cells = [
            one for key, found in comparison.cells.items() if key.name == name for one in found
        ]
        starts = spread((one.start_seconds for one in cells), ".1f")
        memory = spread((one.memory for one in cells), ".0f")
        yield f"{name:<26}{starts:>24}{memory:>24}{size:>24,.0f}"


def table(comparison: Comparison) -> str:
    """Every measurement."""
    lines = [
        f"{comparison.heading}\n",
        f"{'server':<10} {'batching':<11} {'image':<10} {'task':<18} {'connections':>11} "
        f"{'requests/s':>22} {'p50 ms':>8} {'p99 ms':>8}  failed",
    ]
    for key, found in comparison.cells.items():
        loads = [one.load for one in found]
        lines.append(
            f"{key.name:<10} {key.batching:<11} {key.image:<10} {_WORDS[key.task]:<18} "
            f"{key.connections:>11} {spread((one.rate for one in loads), ',.0f'):>22} "
            f"{median(one.p50_ms for one in loads):>8.2f} "
            f"{median(one.p99_ms for one in loads):>8.2f}  "
            f"{sum(one.failed for one in loads) or 'none'}"
        )
    return "\n".join(lines)


def best_configurations(cells: Mapping[Key, Sequence[Cell]]) -> list[Key]:
    """For each server, image, task and number of connections: the batching with the best rate."""
    best: dict[tuple[str, str, str, int], Key] = {}
    for key, found in cells.items():
        point = (key.name, key.image, key.task, key.connections)
        if point not in best or _rate(found) > _rate(cells[best[point]]):
            best[point] = key
    return list(best.values())


def _rate(found: Sequence[Cell]) -> float:
    return median(one.load.rate for one in found)


if __name__ == "__main__":
    print(table(last()))
