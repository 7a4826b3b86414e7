"""What each model answered, and which versions of it are served: models come and go at run time.

Other metrics have a closed set of labels, each with its place in a row. A model gets one of a row's
slots when it is first served, and keeps it, so that its counts never run backwards; the slot's text
has the version of the network that the worker serves, and the model's name.
"""

from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, get_args

from app.telemetry.metric_families import Counter, Family, Gauge, Histogram, lay_out
from model.literals import ENTROPY_BOUNDS, Mode, Outcome

if TYPE_CHECKING:
    from app.telemetry.shared_memory import SharedCounts

# Of models beyond the slots.
_OTHERS = "other"
# Below it, entropies depend on the number of passes: drift is looked for from here on.
_LEAST_DRIFT_NATS = 0.05
_CLASSES = tuple("0123456789")

# Of the validation images, up to each of `ENTROPY_BOUNDS`.
EntropyShares = Mapping[Mode, Sequence[float]]


class ModelFamilies:
    """Every metric that is counted for each model, in the order of `/metrics`.

    Attributes:
        columns: the numbers that they take in a slot.
    """

    def __init__(self) -> None:
        mode = {"mode": get_args(Mode)}
        self.predictions = Counter(
            "dropserve_model_predictions_total", "Answered images of each model.", mode
        )
        self.passes = Counter(
            "dropserve_model_passes_total", "Stochastic passes computed for each model."
        )
        self.predictive_entropy = Histogram(
            "dropserve_predictive_entropy_nats",
            "Predictive entropy, 0 to the logarithm of the number of classes.",
            mode,
            ENTROPY_BOUNDS,
        )
        self.accepted_confidence = Histogram(
            "dropserve_accepted_confidence_ratio",
            "Calibrated probability of the answer's class, of accepted answers: their mean is the "
            "share that is expected to be right.",
            mode,
        )
        self.feedback = Counter(
            "dropserve_feedback_total",
            "Answers whose true class a client sent, by decision, index of the true class, and "
            "whether the answer had it.",
            {
                "decision": (*get_args(Outcome), "none"),
                "class_index": (*_CLASSES, _OTHERS),
                "correct": ("true", "false"),
            },
        )
        self.every: list[Family] = list(vars(self).values())
        self.columns = lay_out(self.every)


MODEL_FAMILIES = ModelFamilies()
MODEL_WIDTH = MODEL_FAMILIES.columns


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

    def count(
        self,
        name: str,
        mode: Mode,
        predictive_entropy: float | None,
        accepted_confidence: float | None,
    ) -> None:
        """Counts an answer.

        Args:
            name: of the model.
            mode: dropout off or on.
            predictive_entropy: nats; None: it says nothing about other answers.
            accepted_confidence: of the answer; None: it is not accepted, or says nothing.
        """
        row, begin, families = self._row, self._place(name), MODEL_FAMILIES
        row[begin + families.predictions.places[mode,]] += 1
        for family, value in (
            (families.predictive_entropy, predictive_entropy),
            (families.accepted_confidence, accepted_confidence),
        ):
            if value is not None:
                family.observe(row, begin + family.places[mode,], value)

    def count_passes(self, name: str, passes: int) -> None:
        """Counts computed passes."""
        self._row[self._place(name) + MODEL_FAMILIES.passes.place()] += passes

    def count_feedback(self, name: str, decision: str, index: int, *, is_correct: bool) -> None:
        """Counts the true class of an answer.

        Args:
            name: of the model.
            decision: an outcome, or none.
            index: of the true class.
            is_correct: whether the answer had it.
        """
        label = _CLASSES[index] if index < len(_CLASSES) else _OTHERS
        place = MODEL_FAMILIES.feedback.place(decision, label, "true" if is_correct else "false")
        self._row[self._place(name) + place] += 1

    def _place(self, name: str) -> int:
        return self._begin + MODEL_WIDTH * self._slots.get(name, self._last)


def model_lines(counts: "SharedCounts") -> Iterator[str]:
    """What models answered, and who serves them, in Prometheus' text format."""
    sums, served = _sum_models(counts)
    workers = Gauge("dropserve_model_workers", "Workers that serve this version of the network.")
    workers.labels = {"model": (), "version": ()}  # any, and not in a row
    workers.places = {each: place for place, each in enumerate(served)}
    yield from workers.lines(list(served.values()))
    numbers = [number for total in sums.values() for number in total]
    for family in MODEL_FAMILIES.every:
        whole = copy(family)
        whole.labels = {"model": (), **family.labels}
        whole.places = {
            (name, *labels): MODEL_WIDTH * slot + place
            for slot, name in enumerate(sums)
            for labels, place in family.places.items()
        }
        yield from whole.lines(numbers)


def reference_lines(shares: Mapping[str, EntropyShares]) -> Iterator[str]:
    """What the entropies of each model are compared with, by name: the validation images'."""
    reference = Gauge(
        "dropserve_reference_entropy_ratio",
        "Share of the validation images whose predictive entropy is at most the bound.",
    )
    reference.labels = {"model": (), "mode": (), "bound": ()}
    numbers = {
        (name, mode, str(bound)): share
        for name, modes in shares.items()
        for mode, fitted in modes.items()
        for bound, share in zip(ENTROPY_BOUNDS, fitted, strict=True)
        if bound >= _LEAST_DRIFT_NATS
    }
    reference.places = {labels: place for place, labels in enumerate(numbers)}
    return reference.lines(list(numbers.values())) if numbers else iter(())


def _sum_models(
    counts: "SharedCounts",
) -> tuple[dict[str, list[float]], dict[tuple[str, str], float]]:
    """The sums over all workers.

    Returns:
        Of each model the numbers of its slots; and how many workers serve each version of it.
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
