"""The metrics of `GET /metrics`: requests and their times, passes, and what the network answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from app.errors import ErrorCode
from app.telemetry.metric_families import Counter, Family, Gauge, Histogram, lay_out
from app.telemetry.model_counts import (
    MODEL_WIDTH,
    EntropyShares,
    ModelCounts,
    model_lines,
    reference_lines,
)
from app.telemetry.request_record import CLIENT_GONE, RequestRecord, RouteLabels, Timings
from app.telemetry.shared_memory import TEXTS, SharedCounts
from model.literals import ENTROPY_BOUNDS, Mode, Reason

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_OTHER = "other"
_STATUSES = sorted({code.status for code in ErrorCode} | {200, 206, 304, CLIENT_GONE})
_STATUS_LABELS = {status: str(status) for status in _STATUSES}
_CODES = sorted(code.text for code in ErrorCode)
_DIGITS = tuple("0123456789")

_SECONDS = (
    *(50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0),
)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


class Families:
    """Every metric that a worker counts, in the order of `/metrics`.

    Attributes:
        columns: the numbers that they take in a row.
    """

    def __init__(self, routes: RouteLabels) -> None:
        route, mode = {"route": routes.every}, {"mode": get_args(Mode)}
        code = {"code": (*_CODES, _OTHER)}
        status = {"status": (*_STATUS_LABELS.values(), _OTHER)}
        self.requests = Counter(
            "dropserve_requests_total",
            "Finished requests by route and HTTP status; 499 if the client disconnected first.",
            route | status,
        )
        self.errors = Counter(
            "dropserve_errors_total", "Error answers by route and error code.", route | code
        )
        self.image_errors = Counter(
            "dropserve_image_errors_total", "Images of batches that failed, by error code.", code
        )
        self.refusals = Counter(
            "dropserve_connections_refused_total",
            "Connections closed with an error before a request could be read, by error code.",
            code,
        )
        self.duration = Histogram(
            "dropserve_request_duration_seconds",
            "Time from the headers of a request to the end of its answer.",
            route,
            _SECONDS,
        )
        self.stages = Histogram(
            "dropserve_stage_duration_seconds",
            "Time that answered predictions spent decoding images, queueing and computing.",
            {"route": routes.predictions, "stage": Timings._fields},
            _SECONDS,
        )
        self.in_flight = Gauge("dropserve_requests_in_flight", "Requests not answered yet.")
        self.queued = Gauge("dropserve_queued_passes", "Passes admitted and not computed yet.")
        self.queue_limit = Gauge(
            "dropserve_queued_passes_limit",
            "Passes that are computed in DROPSERVE_MAX_WAIT_MS, at the measured pace.",
        )
        self.passes = Counter(
            "dropserve_passes_total",
            "Stochastic passes: computed; cancelled by a disconnect or the deadline; or spared, "
            "because max_standard_error or until ended the request before.",
            {"outcome": ("computed", "cancelled", "spared")},
        )
        self.predictions = Counter(
            "dropserve_predictions_total",
            "Answered images, abstentions included, by the most probable digit.",
            mode | {"digit": (*_DIGITS, _OTHER)},
        )
        self.abstentions = Counter(
            "dropserve_abstentions_total",
            "Answered images that a person should check, by reason.",
            mode | {"reason": get_args(Reason)},
        )
        self.mutual_information = Histogram(
            "dropserve_mutual_information_nats", "How far the passes disagree.", {}, ENTROPY_BOUNDS
        )
        self.confidence = Histogram(
            "dropserve_confidence_ratio", "Probability of the most probable digit.", mode, _SHARES
        )
        self.worker_starts = Counter(
            "dropserve_worker_starts_total", "Workers started, replacements included."
        )
        self.every: list[Family] = list(vars(self).values())
        self.columns = lay_out(self.every) + TEXTS * MODEL_WIDTH


class Metrics:
    """Counts in the row of one process, and reports the sums over all rows.

    Args:
        routes: the labels that the records of requests have.
        counts: the shared rows; None counts in this process's own memory.
        index: the row of this process.

    Attributes:
        models: counts of each model.
    """

    def __init__(
        self, routes: RouteLabels, counts: SharedCounts | None = None, index: int = 0
    ) -> None:
        self._families = families = Families(routes)
        self._counts = counts or SharedCounts(1, families.columns)
        self._index = index
        self._entropy_shares: Mapping[str, EntropyShares] = {}
        self._row = _clear(families, self._counts, index)
        self.models = ModelCounts(self._counts, index)
        self._row[families.worker_starts.place()] += 1
        # What every request needs, looked up once.
        self._in_flight, self._requests = families.in_flight.place(), families.requests.places
        self._durations = {route: families.duration.place(route) for route in routes.every}
        self._stages = {
            route: [families.stages.place(route, stage) for stage in Timings._fields]
            for route in routes.predictions
        }

    def serve_models(
        self,
        versions: Mapping[str, str],
        most_queued: int,
        entropy_shares: Mapping[str, EntropyShares] | None = None,
    ) -> None:
        """Notes which models this worker serves from now on.

        Args:
            versions: of each model's network.
            most_queued: see `limit_queue`.
            entropy_shares: by model and mode, as far as its checkpoint has them.
        """
        self.models.serve(versions)
        self._entropy_shares = entropy_shares or {}
        self.limit_queue(most_queued)

    def limit_queue(self, passes: int) -> None:
        """Notes how many passes are computed in the longest wait."""
        self._row[self._families.queue_limit.place()] = passes

    def begin_request(self) -> None:
        self._row[self._in_flight] += 1

    def end_request(self, record: RequestRecord) -> None:
        row, families = self._row, self._families
        _, _, route, status, code, seconds, timings, *_ = record
        row[self._in_flight] -= 1
        row[self._requests[route, _STATUS_LABELS.get(status, _OTHER)]] += 1
        families.duration.observe(row, self._durations[route], seconds)
        if code is not None:
            row[families.errors.place(route, _code_label(code))] += 1
        # An application with further routes may ask the network elsewhere, too.
        elif timings.compute and (places := self._stages.get(route)):
            for place, stage_seconds in zip(places, timings, strict=True):
                families.stages.observe(row, place, stage_seconds)

    def change_queue(self, passes: int) -> None:
        """Adds to the queued passes, or subtracts if negative."""
        self._row[self._families.queued.place()] += passes

    def count_passes(self, **outcomes: int) -> None:
        """Counts the passes that an ended request asked for: computed, spared, cancelled."""
        for outcome, passes in outcomes.items():
            self._row[self._families.passes.place(outcome)] += passes

    def count_image_error(self, code: str) -> None:
        """Counts an image of a batch that failed."""
        self._row[self._families.image_errors.place(_code_label(code))] += 1

    def count_refusal(self, code: str) -> None:
        """Counts a connection that was closed with an error before a request could be read."""
        self._row[self._families.refusals.place(_code_label(code))] += 1

    def count_answer(
        self,
        model: str,
        mode: Mode,
        digit: int | None,
        confidence: float,
        predictive_entropy: float,
        mutual_information: float | None,
        *,
        reason: Reason | None,
        is_accepted: bool,
        is_calibrated: bool,
    ) -> None:
        """Counts an image's answer; drift of the images shows here before users report it.

        Args:
            model: its name.
            mode: dropout off or on.
            digit: the class index; None for other data sets than digits.
            confidence: the probability of this class.
            predictive_entropy: nats.
            mutual_information: nats; None with dropout off.
            reason: why the decision is to abstain; None: accept, or no decision.
            is_accepted: whether the decision is to accept.
            is_calibrated: False with another dropout rate than the checkpoint's: nothing follows
                from such an answer for others.
        """
        row, families = self._row, self._families
        label = _OTHER if digit is None else _DIGITS[digit]
        row[families.predictions.places[mode, label]] += 1
        if reason is not None:
            row[families.abstentions.place(mode, reason)] += 1
        self.models.count(
            model,
            mode,
            predictive_entropy if is_calibrated else None,
            confidence if is_calibrated and is_accepted else None,
        )
        if not is_calibrated:
            return
        information = families.mutual_information
        families.confidence.observe(row, families.confidence.places[mode,], confidence)
        if mutual_information is not None:
            information.observe(row, information.places[()], mutual_information)

    def text(self) -> bytes:
        """The sums over all workers in Prometheus' text format."""
        numbers: list[float] = self._counts.total().tolist()
        lines = [line for family in self._families.every for line in family.lines(numbers)]
        lines += model_lines(self._counts)
        # As this worker serves them: not summed over workers.
        lines += reference_lines(self._entropy_shares)
        return "\n".join([*lines, ""]).encode()


@dataclass(frozen=True)
class MetricsRow:
    """The row of one of several workers in their shared file; can be sent to another process."""

    routes: RouteLabels
    path: Path
    rows: int
    index: int

    @classmethod
    def create(cls, routes: RouteLabels, path: Path, rows: int) -> "list[MetricsRow]":
        """Creates the file, and describes its rows."""
        SharedCounts.create_file(path, rows, Families(routes).columns)
        return [cls(routes, path, rows, index) for index in range(rows)]

    def open(self) -> Metrics:
        """Counts in this row, in the calling process."""
        return Metrics(self.routes, self._counts(), self.index)

    def retire(self) -> None:
        """Clears what described a worker that has ended; what it counted stays."""
        counts = self._counts()
        _clear(Families(self.routes), counts, self.index)
        ModelCounts(counts, self.index)

    def _counts(self) -> SharedCounts:
        return SharedCounts(self.rows, Families(self.routes).columns, self.path)


def _clear(families: Families, counts: SharedCounts, index: int) -> "memoryview[float]":
    """Clears what described the worker that counted in a row before; returns the row."""
    row = counts.row(index)
    for family in families.every:
        if isinstance(family, Gauge):
            row[family.place()] = 0
    return row


def _code_label(code: str) -> str:
    return code if code in _CODES else _OTHER
