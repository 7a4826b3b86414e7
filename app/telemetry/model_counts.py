"""What each model answered, and which versions of it are served: models come and go at run time.

Other metrics have a closed set of labels, each with its place in a row. A model gets one of a row's
slots when it is first served, and keeps it, so that its counts never run backwards; the slot's text
has the version of the network that the worker serves, and the model's name.
"""

from collections import Counter as Tally
from collections.abc import Mapping
from typing import TYPE_CHECKING, get_args

from model.literals import Mode

if TYPE_CHECKING:
    from app.telemetry.shared_memory import SharedCounts

_MODES = get_args(Mode)
MODEL_WIDTH = len(_MODES) + 1  # answers in each mode, and passes
# Of models beyond the slots.
_OTHERS = "other"


class ModelCounts:
    """The slots of one row.

    Args:
        counts: the shared rows, whose last columns are those of slots.
        index: of the row of this process.
    """

    def __init__(self, counts: "SharedCounts", index: int) -> None:
        self._counts, self._index = counts, index
        self._row = counts.row(index)
        texts = counts.texts_of(index)
        self._last = len(texts) - 1
        self._begin = len(self._row) - MODEL_WIDTH * len(texts)
        self._slots = {text.partition(" ")[2]: slot for slot, text in enumerate(texts) if text}
        self.serve({})  # of the worker before

    def serve(self, versions: Mapping[str, str]) -> None:
        """Notes which models this worker serves from now on, each with its network's version."""
        for name in versions:
            if name not in self._slots and len(self._slots) < self._last:
                self._slots[name] = len(self._slots)
        for name, slot in self._slots.items():
            self._counts.write_text(self._index, f"{versions.get(name, '')} {name}", slot)

    def count(self, name: str, mode: Mode) -> None:
        """Counts an answer."""
        self._row[self._place(name) + (mode == "mc")] += 1

    def count_passes(self, name: str, passes: int) -> None:
        """Counts computed passes."""
        self._row[self._place(name) + len(_MODES)] += passes

    def _place(self, name: str) -> int:
        return self._begin + MODEL_WIDTH * self._slots.get(name, self._last)


def sum_models(
    counts: "SharedCounts",
) -> tuple[dict[str, list[float]], dict[tuple[str, str], float]]:
    """The sums over all workers.

    Returns:
        Of each model its answers in each mode, and its passes; and how many workers serve each
        version of it.
    """
    served: Tally[tuple[str, str]] = Tally()
    sums: dict[str, list[float]] = {}
    for index in range(counts.rows):
        row, texts = counts.row(index), counts.texts_of(index)
        begin = len(row) - MODEL_WIDTH * len(texts)
        for slot, text in enumerate(texts):
            place = begin + MODEL_WIDTH * slot
            numbers = row[place : place + MODEL_WIDTH].tolist()
            version, _, name = text.partition(" ")
            if not text and not any(numbers):
                continue
            total = sums.setdefault(name or _OTHERS, [0.0] * MODEL_WIDTH)
            total[:] = [a + b for a, b in zip(total, numbers, strict=True)]
            served.update([(name, version)] if version else [])
    return dict(sorted(sums.items())), dict(sorted(served.items()))
