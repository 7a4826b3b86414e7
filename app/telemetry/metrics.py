"""What the server counts, for `GET /metrics`: requests, time, passes, and what the network sees."""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.api.routes import PREDICTION_ROUTES, ROUTES
from app.errors import ErrorCode
from app.telemetry.metric_families import Counter, Gauge, Histogram, lay_out, sample_line
from app.telemetry.request_record import CLIENT_GONE, RequestRecord
from app.telemetry.shared_memory import SharedCounts
from model.literals import Mode, Reason

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_OTHER = "other"
_STATUSES = sorted({code.status for code in ErrorCode} | {200, 206, 304, CLIENT_GONE})
_STATUS_LABELS = {status: str(status) for status in _STATUSES}
_CODES = sorted(code.text for code in ErrorCode)
_STAGES = ("decode", "queue", "compute")
_MODES = ("predict", "mc")  # dropout off, dropout on: as the checkpoint's calibration has them
_DIGITS = tuple("0123456789")
_REASONS = ("ambiguous", "unfamiliar", "several_digits")

_SECONDS = (
    *(50e-6, 100e-6, 200e-6, 500e-6),
    *(1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0),
)
_NATS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 2.302)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_IMAGES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)

REQUESTS = Counter(
    "dropserve_requests_total",
    "Requests ended, by route and HTTP status; 499: the client went away before its answer.",
    {"route": ROUTES, "status": (*_STATUS_LABELS.values(), _OTHER)},
    is_sparse=True,
)
ERRORS = Counter(
    "dropserve_errors_total",
    "Requests that were answered with an error, by route and the error's code.",
    {"route": ROUTES, "code": (*_CODES, _OTHER)},
    is_sparse=True,
)
IMAGE_ERRORS = Counter(
    "dropserve_image_errors_total",
    "Images of batches that could not be answered, by the error's code.",
    {"code": (*_CODES, _OTHER)},
    is_sparse=True,
)
REFUSALS = Counter(
    "dropserve_connections_refused_total",
    "Connections that got an error outside of any request, and were closed, by its code.",
    {"code": (*_CODES, _OTHER)},
    is_sparse=True,
)
DURATION = Histogram(
    "dropserve_request_duration_seconds",
    "From a request's headers to the end of its answer.",
    _SECONDS,
    {"route": ROUTES},
    is_sparse=True,
)
STAGES = Histogram(
    "dropserve_stage_duration_seconds",
    "Of answered predictions: decoding images, waiting for the engine, computing.",
    _SECONDS,
    {"route": PREDICTION_ROUTES, "stage": _STAGES},
    is_sparse=True,
)
IN_FLIGHT = Gauge("dropserve_requests_in_flight", "Requests that are not answered yet.")
QUEUED = Gauge("dropserve_queued_passes", "Passes admitted and not answered yet.")
QUEUE_LIMIT = Gauge("dropserve_queued_passes_limit", "Passes beyond which requests get 429.")
ROUND_IMAGES = Histogram(
    "dropserve_round_images", "Images that the engine computed together in one round.", _IMAGES
)
PASSES = Counter(
    "dropserve_passes_total",
    "Stochastic passes: computed; cancelled, since their caller went away or the deadline was "
    "over; or spared, since max_standard_error was met before.",
    {"outcome": ("computed", "cancelled", "spared")},
)
PREDICTIONS = Counter(
    "dropserve_predictions_total",
    "Images answered, abstentions included, by the digit that is likeliest.",
    {"mode": _MODES, "digit": (*_DIGITS, _OTHER)},
)
ABSTENTIONS = Counter(
    "dropserve_abstentions_total",
    "Images answered that a person should look at, by reason.",
    {"mode": _MODES, "reason": _REASONS},
)
PREDICTIVE_ENTROPY = Histogram(
    "dropserve_predictive_entropy_nats", "Total doubt, 0 to ln 10.", _NATS, {"mode": _MODES}
)
MUTUAL_INFORMATION = Histogram(
    "dropserve_mutual_information_nats", "Doubt of the network: its passes disagree.", _NATS
)
CONFIDENCE = Histogram(
    "dropserve_confidence_ratio",
    "Calibrated probability of the likeliest digit.",
    _SHARES,
    {"mode": _MODES},
)
WORKER_STARTS = Counter("dropserve_worker_starts_total", "Workers started, replacements included.")

FAMILIES = (
    *(REQUESTS, ERRORS, IMAGE_ERRORS, REFUSALS, DURATION, STAGES, IN_FLIGHT),
    *(QUEUED, QUEUE_LIMIT, ROUND_IMAGES, PASSES),
    *(PREDICTIONS, ABSTENTIONS, PREDICTIVE_ENTROPY, MUTUAL_INFORMATION, CONFIDENCE),
    WORKER_STARTS,
)
COLUMNS = lay_out(FAMILIES)

_ROUND = ROUND_IMAGES.place()
_COMPUTED, _CANCELLED, _SPARED = (
    PASSES.place(outcome) for outcome in ("computed", "cancelled", "spared")
)
_INFORMATION = MUTUAL_INFORMATION.place()


class _Route:
    """The places of what is counted of each request."""

    def __init__(self, route: str) -> None:
        self.statuses = {
            status: REQUESTS.place(route, label) for status, label in _STATUS_LABELS.items()
        }
        self.other = REQUESTS.place(route, _OTHER)
        self.duration = DURATION.place(route)
        self.errors = {code: ERRORS.place(route, code) for code in (*_CODES, _OTHER)}
        # Another route may still ask the network: of an application that has more than ours.
        is_prediction = route in PREDICTION_ROUTES
        self.stages = [STAGES.place(route, stage) for stage in _STAGES] if is_prediction else []


_ROUTES = {route: _Route(route) for route in ROUTES}


class _Mode:
    """The places of what is counted of each answer."""

    def __init__(self, mode: str) -> None:
        self.digits = [PREDICTIONS.place(mode, digit) for digit in _DIGITS]
        self.other = PREDICTIONS.place(mode, _OTHER)
        self.reasons = {reason: ABSTENTIONS.place(mode, reason) for reason in _REASONS}
        self.entropy = PREDICTIVE_ENTROPY.place(mode)
        self.confidence = CONFIDENCE.place(mode)


_PREDICT, _MC = map(_Mode, _MODES)


class Metrics:
    """Counts in one process's row, and tells the sums over all rows.

    Args:
        counts: where; without it in this process's own memory.
        row: this process's.
    """

    def __init__(self, counts: SharedCounts | None = None, row: int = 0) -> None:
        self._counts = counts or SharedCounts(1, COLUMNS)
        self._index = row
        self._row = self._counts.row(row)
        self._in_flight = IN_FLIGHT.place()
        self._queued = QUEUED.place()
        _retire(self._counts, row)
        self._row[WORKER_STARTS.place()] += 1

    def serve_model(self, name: str, version: str, max_queued_passes: int) -> None:
        """Notes what this worker serves from now on."""
        self._counts.write_text(self._index, f"{version} {name}")
        self._row[QUEUE_LIMIT.place()] = max_queued_passes

    def begin_request(self) -> None:
        """Counts a request that has come in."""
        self._row[self._in_flight] += 1

    def end_request(self, ended: RequestRecord) -> None:
        """Counts a request that has ended."""
        row, route, times = self._row, _ROUTES[ended.route], ended.timings
        row[self._in_flight] -= 1
        row[route.statuses.get(ended.status, route.other)] += 1
        DURATION.observe(row, route.duration, ended.seconds)
        if ended.code is not None:
            row[route.errors[_code(ended.code)]] += 1
        elif times.compute and route.stages:
            decode, queue, compute = route.stages
            STAGES.observe(row, decode, times.decode)
            STAGES.observe(row, queue, times.queue)
            STAGES.observe(row, compute, times.compute)

    def change_queue(self, passes: int) -> None:
        """Counts what is queued more, or, negative, less."""
        self._row[self._queued] += passes

    def count_round(self, images: int, passes: int) -> None:
        """Counts a round that the engine has computed."""
        row = self._row
        ROUND_IMAGES.observe(row, _ROUND, images)
        row[_COMPUTED] += passes

    def count_ended(self, *, spared: int, cancelled: int) -> None:
        """Counts the passes of a request that were asked for and never computed."""
        self._row[_SPARED] += spared
        self._row[_CANCELLED] += cancelled

    def count_image_error(self, code: str) -> None:
        """Counts an image of a batch that could not be answered."""
        self._row[IMAGE_ERRORS.place(_code(code))] += 1

    def count_refusal(self, code: str) -> None:
        """Counts a connection that brought no request that could be read."""
        self._row[REFUSALS.place(_code(code))] += 1

    def count_answer(
        self,
        mode: Mode,
        digit: int,
        confidence: float,
        predictive_entropy: float,
        reason: Reason | None,
        mutual_information: float | None,
    ) -> None:
        """Counts an image's answer, for what changes in what the network sees."""
        row = self._row
        places = _PREDICT if mode == "predict" else _MC
        row[places.digits[digit] if digit < len(_DIGITS) else places.other] += 1
        if reason is not None:
            row[places.reasons[reason]] += 1
        PREDICTIVE_ENTROPY.observe(row, places.entropy, predictive_entropy)
        CONFIDENCE.observe(row, places.confidence, confidence)
        if mutual_information is not None:
            MUTUAL_INFORMATION.observe(row, _INFORMATION, mutual_information)

    def text(self) -> bytes:
        """The sums over all workers, in Prometheus' text format."""
        numbers: list[float] = self._counts.total().tolist()
        lines = [line for family in FAMILIES for line in family.lines(numbers)]
        lines.extend(_model_lines(self._counts.texts()))
        return "\n".join([*lines, ""]).encode()


@dataclass(frozen=True)
class MetricsRow:
    """Where one of several workers counts; can be sent to its process.

    Attributes:
        path: the file that all of them share.
        rows: how many there are.
        index: which one this is.
    """

    path: Path
    rows: int
    index: int

    @classmethod
    def create(cls, path: Path, rows: int) -> "list[MetricsRow]":
        """Makes the file, and all its rows."""
        SharedCounts.create_file(path, rows, COLUMNS)
        return [cls(path, rows, index) for index in range(rows)]

    def open(self) -> Metrics:
        """What counts here, in the process that calls."""
        return Metrics(SharedCounts(self.rows, COLUMNS, self.path), self.index)

    def retire(self) -> None:
        """Forgets what was true only of the worker that is gone; what it counted stays."""
        _retire(SharedCounts(self.rows, COLUMNS, self.path), self.index)


def _retire(counts: SharedCounts, index: int) -> None:
    row = counts.row(index)
    for family in FAMILIES:
        if isinstance(family, Gauge):
            row[family.place()] = 0
    counts.write_text(index, "")


def _code(code: str) -> str:
    return code if code in _CODES else _OTHER


def _model_lines(texts: Sequence[str]) -> Iterable[str]:
    name = "dropserve_model_workers"
    yield f"# HELP {name} Workers that serve this version of the network."
    yield f"# TYPE {name} gauge"
    for text, workers in sorted(Tally(texts).items()):
        version, _, model = text.partition(" ")
        yield sample_line(name, {"model": model, "version": version}, workers)
