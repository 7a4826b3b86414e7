"""Counters, gauges and histograms over a row of numbers, and their text for Prometheus.

Every label has a closed set of values, so each series has its place before anything is counted:
counting is one addition in memory. (prometheus_client's multiprocess mode takes a lock, looks the
series up and writes to a file that stays for every process that ever was: about ten times as long,
for a dozen numbers a request.)
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, product
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Values = tuple[str, ...]  # of the labels, in their order


class Family:
    """Series of one name, one for each combination of label values.

    Args:
        name: in full, with its unit.
        help_text: one line.
        labels: the values that each label can have.
        is_sparse: leaves out what has not happened yet, where most combinations never do.

    Attributes:
        places: of each series in the row, once `lay_out` has given it: the first of its numbers.
    """

    kind: Kind
    width = 1  # numbers of a series

    def __init__(
        self,
        name: str,
        help_text: str,
        labels: Mapping[str, Sequence[str]] | None = None,
        *,
        is_sparse: bool = False,
    ) -> None:
        self.name = name
        self.help_text = help_text
        self.label_names = tuple(labels or {})
        self.combinations = list(product(*(labels or {}).values()))
        self.is_sparse = is_sparse
        self.places: dict[Values, int] = {}

    @property
    def size(self) -> int:
        """Numbers of all series together."""
        return self.width * len(self.combinations)

    def put_at(self, start: int) -> None:
        """Gives the series their places, from `start` on."""
        for number, values in enumerate(self.combinations):
            self.places[values] = start + number * self.width

    def place(self, *values: str) -> int:
        """Of a series in the row."""
        return self.places[values]

    def lines(self, numbers: Sequence[float]) -> Iterator[str]:
        """The family in Prometheus' text format, of the numbers of a row."""
        yield f"# HELP {self.name} {self.help_text}"
        yield f"# TYPE {self.name} {self.kind}"
        for values, place in self.places.items():
            series = numbers[place : place + self.width]
            if any(series) or not self.is_sparse:
                yield from self._series_lines(values, series)

    def _series_lines(self, values: Values, series: Sequence[float]) -> Iterator[str]:
        yield sample_line(self.name, dict(zip(self.label_names, values, strict=True)), series[0])


class Counter(Family):
    """Counts what only grows; its name ends in `_total`."""

    kind: Kind = "counter"


class Gauge(Family):
    """A number of each worker that goes up and down; what is told is their sum."""

    kind: Kind = "gauge"


class Histogram(Family):
    """Counts values by size; a series' numbers are those of its buckets, then the sum of values.

    Args:
        bounds: upper bounds of the buckets, inclusive, ascending; the last bucket has none.
    """

    kind: Kind = "histogram"

    def __init__(
        self,
        name: str,
        help_text: str,
        bounds: Sequence[float],
        labels: Mapping[str, Sequence[str]] | None = None,
        *,
        is_sparse: bool = False,
    ) -> None:
        super().__init__(name, help_text, labels, is_sparse=is_sparse)
        self.bounds = tuple(bounds)
        self.width = len(bounds) + 2

    def observe(self, row: "memoryview[float]", place: int, value: float) -> None:
        """Counts a value in the series at the place."""
        row[place + bisect_left(self.bounds, value)] += 1
        row[place + self.width - 1] += value

    def _series_lines(self, values: Values, series: Sequence[float]) -> Iterator[str]:
        labels = dict(zip(self.label_names, values, strict=True))
        *buckets, total = series
        counts = list(accumulate(buckets))
        for bound, count in zip([*map(_number, self.bounds), "+Inf"], counts, strict=True):
            yield sample_line(f"{self.name}_bucket", labels | {"le": bound}, count)
        yield sample_line(f"{self.name}_sum", labels, total)
        yield sample_line(f"{self.name}_count", labels, counts[-1])


def lay_out(families: Sequence[Family]) -> int:
    """Gives every series its place in a row; returns the length of the row."""
    start = 0
    for family in families:
        family.put_at(start)
        start += family.size
    return start


def sample_line(name: str, labels: Mapping[str, str], value: float) -> str:
    """One sample in the text format."""
    if not labels:
        return f"{name} {_number(value)}"
    pairs = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {_number(value)}"


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
