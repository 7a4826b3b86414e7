"""What `dropserve bench http` makes of its measurements: figures, ratios, a table and JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from app.load_client import Measurement, percentile

_RATIOS = (("predict", "constant"), ("mc", "predict"), ("constant", "mc"))
# Beyond these the generator may have been slower than the server.
_MOST_SHARE, _MOST_LATENESS_MS = 0.9, 5.0


@dataclass(frozen=True)
class Load:
    """A closed loop of so many connections, or an open loop of so many requests a second."""

    connections: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        if self.rate is not None:
            return f"{self.rate:g} a second"
        return "1 connection" if self.connections == 1 else f"{self.connections} connections"


@dataclass(frozen=True)
class Errors:
    """Requests that ended in the same error, of one round or of all."""

    count: int
    p99_ms: float | None  # None: there was no answer


@dataclass(frozen=True)
class Round:
    """One measurement; a figure is None where nothing was answered, or it does not apply."""

    requests_per_second: float  # successes only, like the latencies
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    errors: dict[str, Errors]
    generator_share: float | None
    lateness_p99_ms: float | None


Figure = Literal[
    "requests_per_second", "p50_ms", "p95_ms", "p99_ms", "generator_share", "lateness_p99_ms"
]


@dataclass(frozen=True)
class Row:
    """A target under a load, in all rounds."""

    target: str
    load: Load
    rounds: list[Round]

    def middle(self, figure: Figure) -> float | None:
        """The median of a figure over the rounds that have it."""
        values = [getattr(one, figure) for one in self.rounds]
        known = [value for value in values if value is not None]
        return median(known) if known else None

    def errors(self) -> dict[str, Errors]:
        """Errors of all rounds, the most frequent first: how many, and the worst round's p99."""
        counts: Counter[str] = Counter()
        worst: dict[str, float] = {}
        for one in self.rounds:
            for code, errors in one.errors.items():
                counts[code] += errors.count
                if errors.p99_ms is not None:
                    worst[code] = max(worst.get(code, 0.0), errors.p99_ms)
        return {code: Errors(count, worst.get(code)) for code, count in counts.most_common()}


@dataclass(frozen=True)
class Ratio:
    """Requests a second of one target over those of another, under the same closed loop."""

    name: str
    connections: int
    median: float
    rounds: list[float]


@dataclass(frozen=True)
class Conditions:
    """Under which the figures were found."""

    machine: str
    server_core: int | None  # None: the server may use any
    generator_core: int | None
    is_own_server: bool
    image_bytes: tuple[int, ...]  # of each image that is sent
    passes: int
    seconds: float
    rounds: int


def summarise(measurement: Measurement) -> Round:
    """The figures of one measurement."""
    successes: list[float] = []
    errors: dict[str, Errors] = {}
    for outcome, latencies in measurement.latencies.items():
        if outcome.isdecimal() and int(outcome) < 300:
            successes.extend(latencies)
        else:
            errors[outcome] = Errors(len(latencies), _percentile_ms(latencies, 99))
    for reason, count in measurement.failures.items():
        errors[reason] = Errors(count, None)
    return Round(
        requests_per_second=measurement.in_time / measurement.seconds,
        p50_ms=_percentile_ms(successes, 50),
        p95_ms=_percentile_ms(successes, 95),
        p99_ms=_percentile_ms(successes, 99),
        errors=errors,
        generator_share=measurement.generator_share,
        lateness_p99_ms=_percentile_ms(measurement.lateness, 99),
    )


def _percentile_ms(seconds: Sequence[float], percent: int) -> float | None:
    return percentile(sorted(seconds), percent) * 1e3 if seconds else None


def find_ratios(rows: Sequence[Row]) -> Iterator[Ratio]:
    """The ratios of the targets measured, each the median of the rounds' own."""
    for load in dict.fromkeys(row.load for row in rows):
        if load.connections is None:  # an open loop's rate is what was asked for
            continue
        rounds = {row.target: row.rounds for row in rows if row.load == load}
        for above, below in _RATIOS:
            if above not in rounds or below not in rounds:
                continue
            values = [
                one.requests_per_second / other.requests_per_second
                for one, other in zip(rounds[above], rounds[below], strict=True)
                if other.requests_per_second
            ]
            if values:
                yield Ratio(f"{above}/{below}", load.connections, median(values), values)


def to_document(conditions: Conditions, rows: Sequence[Row]) -> dict[str, Any]:
    """Everything, as JSON types."""
    return {
        **asdict(conditions),
        "results": [
            {
                "target": row.target,
                **asdict(row.load),
                "requests_per_second": row.middle("requests_per_second"),
                "p50_ms": row.middle("p50_ms"),
                "p95_ms": row.middle("p95_ms"),
                "p99_ms": row.middle("p99_ms"),
                "errors": {code: asdict(errors) for code, errors in row.errors().items()},
                "rounds": [asdict(one) for one in row.rounds],
            }
            for row in rows
        ],
        "ratios": [asdict(ratio) for ratio in find_ratios(rows)],
    }


def to_text(conditions: Conditions, rows: Sequence[Row]) -> str:
    """What a person wants to know, as a table."""
    lines = [
        conditions.machine,
        _describe_pinning(conditions),
        f"{describe_images(conditions.image_bytes)}, mc with {conditions.passes} passes, "
        f"median of {conditions.rounds} rounds of {conditions.seconds:g} s",
        "",
        f"{'target':<9} {'load':<15} {'requests/s':>10} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8}"
        "  errors",
    ]
    for row in rows:
        latencies = (row.middle("p50_ms"), row.middle("p95_ms"), row.middle("p99_ms"))
        cells = " ".join(f"{'-' if value is None else f'{value:.2f}':>8}" for value in latencies)
        lines.append(
            f"{row.target:<9} {row.load!s:<15} {row.middle('requests_per_second'):>10,.1f} {cells}"
            f"  {_describe_errors(row.errors())}"
        )
    ratios = list(find_ratios(rows))
    if ratios:
        lines += ["", "ratios of requests/s (lowest and highest round)"]
    for ratio in ratios:
        lines.append(
            f"{ratio.name:<17} {Load(ratio.connections)!s:<15} {ratio.median:>6.3f} "
            f"({min(ratio.rounds):.3f}-{max(ratio.rounds):.3f})"
        )
    return "\n".join(lines)


def describe_images(sizes: Sequence[int]) -> str:
    """What is sent, for the head of a table: how many images, of how many bytes."""
    if len(sizes) == 1:
        return f"an image of {sizes[0]} bytes"
    return f"{len(sizes)} images in turn, of {min(sizes)} to {max(sizes)} bytes"


def find_limits(rows: Sequence[Row]) -> Iterator[str]:
    """Where the generator was too slow for its figures to be the server's."""
    for row in rows:
        share, lateness = row.middle("generator_share"), row.middle("lateness_p99_ms")
        if share is not None and share > _MOST_SHARE:
            yield (
                f"{row.target}, {row.load}: the load generator was busy {share:.0%} of the time; "
                "the server may be faster than this"
            )
        if lateness is not None and lateness > _MOST_LATENESS_MS:
            yield (
                f"{row.target}, {row.load}: requests were sent {lateness:.1f} ms late (p99), which "
                "the latencies include"
            )


def _describe_pinning(conditions: Conditions) -> str:
    if conditions.generator_core is None:
        return "not pinned: server and load generator share the cores"
    generator = f"load generator to core {conditions.generator_core}"
    if not conditions.is_own_server:
        return f"pinned: {generator}; the server is where it is"
    return f"pinned: server to core {conditions.server_core}, {generator}"


def _describe_errors(errors: dict[str, Errors]) -> str:
    parts = [
        f"{code} x {one.count}" + ("" if one.p99_ms is None else f" (p99 {one.p99_ms:.2f} ms)")
        for code, one in errors.items()
    ]
    return ", ".join(parts) or "none"
