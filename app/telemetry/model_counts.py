"""What each model answered, and which versions of it are served: models come and go at run time.

Other metrics have a closed set of labels, each with its place in a row. A model gets one of a row's
slots when it is first served, and keeps it, so that its counts never run backwards; the slot's text
has the version of the network that the worker serves, and the model's name.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from app.telemetry.metric_families import Counter, Family, Gauge
from app.telemetry.shared_memory import TEXTS, SharedCounts
from model.literals import Mode

_MODES = get_args(Mode)
_WIDTH = len(_MODES) + 1  # answers in each mode, and passes
MODEL_COLUMNS = TEXTS * _WIDTH
# Of models beyond the slots.
_OTHERS = "other"


class ModelCounts:
    """The slots of one row.

    Args:
        counts: the shared rows, whose last columns are those of slots.
        index: of the row of this process.
    """

    def __init__(self, counts: SharedCounts, index: int) -> None:
        self._counts, self._index = counts, index
        self._row = counts.row(index)
        self._begin = len(self._row) - MODEL_COLUMNS
        texts = counts.texts_of(index)
        self._slots = {text.partition(" ")[2]: slot for slot, text in enumerate(texts) if text}
        self.serve({})  # of the worker before

    def serve(self, versions: Mapping[str, str]) -> None:
        """Notes which models this worker serves from now on, each with its network's version."""
        for name in versions:
            if name not in self._slots and len(self._slots) < TEXTS - 1:
                self._slots[name] = len(self._slots)
        for name, slot in self._slots.items():
            self._counts.write_text(self._index, f"{versions.get(name, '')} {name}", slot)

    def count(self, name: str, mode: Mode) -> None:
        """Counts an answer."""
        self._row[self._place(name) + _MODES.index(mode)] += 1

    def count_passes(self, name: str, passes: int) -> None:
        """Counts computed passes."""
        self._row[self._place(name) + len(_MODES)] += passes

    def _place(self, name: str) -> int:
        return self._begin + _WIDTH * self._slots.get(name, TEXTS - 1)


def model_lines(counts: SharedCounts) -> Iterator[str]:
    """The sums over all workers, in Prometheus' text format."""
    served: Tally[tuple[str, str]] = Tally()
    sums: dict[str, list[float]] = {}
    for index in range(counts.rows):
        row = counts.row(index)
        begin = len(row) - MODEL_COLUMNS
        for slot, text in enumerate(counts.texts_of(index)):
            place = begin + _WIDTH * slot
            numbers = row[place : place + _WIDTH].tolist()
            version, _, name = text.partition(" ")
            if not text and not any(numbers):
                continue
            total = sums.setdefault(name or _OTHERS, [0.0] * _WIDTH)
            total[:] = [a + b for a, b in zip(total, numbers, strict=True)]
            served.update([(name, version)] if version else [])
    names = sorted(sums)
    workers = Gauge("dropserve_model_workers", "Workers that serve this version of the network.")
    yield from _series(workers, ("model", "version"), dict(sorted(served.items())))
    answers = Counter("dropserve_model_predictions_total", "Answered images of each model.")
    by_mode: dict[tuple[str, ...], float] = {
        (name, mode): sums[name][i] for name in names for i, mode in enumerate(_MODES)
    }
    yield from _series(answers, ("model", "mode"), by_mode)
    passes = Counter("dropserve_model_passes_total", "Stochastic passes computed for each model.")
    yield from _series(passes, ("model",), {(name,): sums[name][-1] for name in names})


def _series(
    family: Family, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> Iterator[str]:
    family.labels = dict.fromkeys(labels, ())  # any, and not in a row
    family.places = {each: place for place, each in enumerate(values)}
    yield from family.lines(list(values.values()))
