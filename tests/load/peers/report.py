"""The tables of the comparison."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from tests.load.wrk import Result

_OURS = "Dropserve"
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
    task: str
    connections: int


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        load: wrk's result.
        memory: of all processes of the server, bytes.
        start_seconds: from the server's start to its first answer.
    """

    load: Result
    memory: int
    start_seconds: float


def to_text(cells: Mapping[Key, Sequence[Cell]]) -> str:
    """The table, and the ratios of our requests/s to those of each peer at its best."""
    return "\n".join([*_table(cells), "", *_ratios(cells), ""])


def _table(cells: Mapping[Key, Sequence[Cell]]) -> Iterator[str]:
    yield (
        f"{'server':<10} {'batching':<11} {'task':<18} {'connections':>11} {'requests/s':>10} "
        f"{'p50 ms':>8} {'p99 ms':>8} {'MiB':>5} {'start s':>7}  failed"
    )
    for key, found in cells.items():
        yield (
            f"{key.name:<10} {key.batching:<11} {_WORDS[key.task]:<18} {key.connections:>11} "
            f"{_rate(found):>10,.1f} "
            f"{median(one.load.p50_ms for one in found):>8.2f} "
            f"{median(one.load.p99_ms for one in found):>8.2f} "
            f"{median(one.memory for one in found) / 2**20:>5.0f} "
            f"{median(one.start_seconds for one in found):>7.1f}  "
            f"{sum(one.load.failed for one in found) or 'none'}"
        )


def _ratios(cells: Mapping[Key, Sequence[Cell]]) -> Iterator[str]:
    """Medians of the ratios within a round, and the lowest and the highest ratio."""
    ours = {(key.task, key.connections): found for key, found in cells.items() if key.name == _OURS}
    if not ours:
        return
    yield "requests/s of Dropserve, as a multiple of a peer's with the batching that suits it best"
    yield "(median of the rounds, lowest and highest)"
    for key in best_configurations(cells):
        mine = ours["predict" if key.task == "predict" else "mc", key.connections]
        ratios = [
            our.load.rate / their.load.rate
            for our, their in zip(mine, cells[key], strict=True)
            if their.load.rate
        ]
        if not ratios:
            yield f"{key.name:<10} answered nothing"
            continue
        yield (
            f"{key.name:<10} {key.batching:<11} {_WORDS[key.task]:<18} {key.connections:>11} "
            f"{median(ratios):>7.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        )


def best_configurations(cells: Mapping[Key, Sequence[Cell]]) -> list[Key]:
    """For each peer, task and number of connections: the batching with the highest rate."""
    best: dict[tuple[str, str, int], Key] = {}
    for key, found in cells.items():
        if key.name == _OURS:
            continue
        point = (key.name, key.task, key.connections)
        if point not in best or _rate(found) > _rate(cells[best[point]]):
            best[point] = key
    return list(best.values())


def _rate(found: Sequence[Cell]) -> float:
    return median(one.load.rate for one in found)
