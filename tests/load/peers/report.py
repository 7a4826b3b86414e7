"""The tables and the ratios of the comparison."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

_OURS = "Dropserve"
_WORDS = {
    "predict": "deterministic",
    "mc": "MC dropout",
    "loop": "textbook loop",
    "expanded": "one expanded batch",
}


@dataclass(frozen=True)
class Key:
    """What a measurement is of."""

    name: str
    batching: str
    task: str
    connections: int


@dataclass(frozen=True)
class Cell:
    """A measurement: milliseconds, bytes, seconds."""

    requests_per_second: float
    p50_ms: float
    p99_ms: float
    memory: int
    start_seconds: float
    failed: int


@dataclass(frozen=True)
class Started:
    """A server that runs: the process that leads it, and the seconds to its first answer."""

    pid: int
    seconds: float


def to_text(cells: Mapping[Key, Sequence[Cell]]) -> str:
    """The table, and how many times as many requests we answer as each peer at its best."""
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
            f"{median(one.p50_ms for one in found):>8.2f} "
            f"{median(one.p99_ms for one in found):>8.2f} "
            f"{median(one.memory for one in found) / 2**20:>5.0f} "
            f"{median(one.start_seconds for one in found):>7.1f}  "
            f"{sum(one.failed for one in found) or 'none'}"
        )


def _ratios(cells: Mapping[Key, Sequence[Cell]]) -> Iterator[str]:
    """Of each round's own rates: medians, and the lowest and the highest round."""
    ours = {(key.task, key.connections): found for key, found in cells.items() if key.name == _OURS}
    if not ours:
        return
    yield "requests/s of Dropserve, as a multiple of a peer's with the batching that suits it best"
    yield "(median of the rounds' own ratios, lowest and highest round)"
    for key in best_configurations(cells):
        mine = ours["predict" if key.task == "predict" else "mc", key.connections]
        ratios = [
            our.requests_per_second / their.requests_per_second
            for our, their in zip(mine, cells[key], strict=True)
            if their.requests_per_second
        ]
        if not ratios:
            yield f"{key.name:<10} answered nothing"
            continue
        yield (
            f"{key.name:<10} {key.batching:<11} {_WORDS[key.task]:<18} {key.connections:>11} "
            f"{median(ratios):>7.1f} ({min(ratios):.1f}-{max(ratios):.1f})"
        )


def best_configurations(cells: Mapping[Key, Sequence[Cell]]) -> list[Key]:
    """Of each peer, task and number of connections: the batching that answers most."""
    best: dict[tuple[str, str, int], Key] = {}
    for key, found in cells.items():
        if key.name == _OURS:
            continue
        what = (key.name, key.task, key.connections)
        if what not in best or _rate(found) > _rate(cells[best[what]]):
            best[what] = key
    return list(best.values())


def _rate(found: Sequence[Cell]) -> float:
    return median(one.requests_per_second for one in found)
