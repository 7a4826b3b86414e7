"""Counters and histograms: their text is what Prometheus reads."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram

from app.telemetry.metric_families import Counter, Gauge, Histogram, lay_out
from tests.app.telemetry.prometheus_text import Scrape

# 0 is below every bound; the bounds themselves belong to the bucket that they end.
VALUES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 1.0, 2.0]) | st.floats(0, 3), max_size=40)


@given(VALUES)
def test_a_histogram_reads_as_prometheus_own_does(values: list[float]) -> None:
    ours = Histogram("length", "Of things.", {}, (0.1, 0.25, 1, 2))
    row = memoryview(bytearray(8 * lay_out([Counter("before", "Shifts it."), ours]))).cast("d")
    registry = CollectorRegistry()
    theirs = TheirHistogram("length", "Of things.", buckets=(0.1, 0.25, 1, 2), registry=registry)
    for value in values:
        ours.observe(row, ours.place(), value)
        theirs.observe(value)

    text = generate_latest(registry).decode()
    expected = {k: v for k, v in Scrape(text).samples.items() if not k[0].endswith("_created")}
    assert Scrape("\n".join(ours.lines(row.tolist())) + "\n").samples == _floats_of(expected)


def _floats_of(samples: Any) -> Any:
    """With `le` as we write it: whole bounds without `.0`."""
    return {
        (name, frozenset((key, text.removesuffix(".0")) for key, text in labels)): value
        for (name, labels), value in samples.items()
    }


def test_every_series_has_numbers_of_its_own() -> None:
    families = [
        Gauge("height", "Of things."),
        Counter("things_total", "Things.", {"colour": ("red", "blue"), "size": ("s", "m", "l")}),
        Histogram("length", "Of things.", {"colour": ("red", "blue")}, (1, 2)),
    ]
    columns = lay_out(families)

    taken = [
        place + offset
        for family in families
        for place in family.places.values()
        for offset in range(family.width)
    ]
    assert sorted(taken) == list(range(columns))
    assert families[1].place("blue", "s") == families[1].places["blue", "s"]


def test_series_by_route_or_code_are_left_out_while_they_are_zero() -> None:
    by_code = Counter("errors_total", "Errors.", {"code": ("no_ink", "internal")})
    by_outcome = Counter("passes_total", "Passes.", {"outcome": ("computed", "spared")})
    lay_out([by_code, by_outcome])

    numbers = [0, 3, 0, 3]
    assert list(by_code.lines(numbers))[2:] == ['errors_total{code="internal"} 3']
    assert list(by_outcome.lines(numbers))[2:] == [
        'passes_total{outcome="computed"} 0',
        'passes_total{outcome="spared"} 3',
    ]
