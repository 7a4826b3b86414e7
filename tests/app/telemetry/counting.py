"""What it costs to count one answered request, here and in prometheus_client.

`python -m tests.app.telemetry.counting` counts the same numbers in shared memory, and with
prometheus_client's multiprocess mode, and prints the microseconds of each.
"""

import os
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from app.api.routes import ROUTE_LABELS
from app.telemetry.metric_families import Family
from app.telemetry.metric_families import Histogram as OurHistogram
from app.telemetry.metrics import Families, MetricsRow
from app.telemetry.model_counts import MODEL_FAMILIES
from app.telemetry.request_record import RequestRecord, Timings

RECORD = RequestRecord("id", "POST", "/predict", 200, None, 6e-4, Timings(5e-5, 1e-4, 4e-4))
REQUESTS = 5_000
ROUNDS = 5


def here(folder: Path) -> float:
    """Seconds a request with `Metrics` in a shared file."""
    (row,) = MetricsRow.create(ROUTE_LABELS, folder / "counts", 1)
    metrics = row.open()
    metrics.serve_models({"mnist": "d9dc6791d91d"}, 100)

    def count() -> None:
        metrics.begin_request()
        metrics.count_answer(
            *("mnist", "predict", 7, 0.99, 0.02, None),
            reason=None,
            is_accepted=True,
            is_calibrated=True,
        )
        metrics.end_request(RECORD)

    return _seconds(count)


def there(folder: Path) -> float:
    """Seconds a request with prometheus_client, which writes files for each process."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # read on import
    from prometheus_client import Counter, Gauge, Histogram, Summary

    families = Families(ROUTE_LABELS)

    def counter(ours: Family) -> Counter:
        return Counter(ours.name, ours.help_text, tuple(ours.labels))

    def histogram(ours: OurHistogram) -> Histogram:
        return Histogram(ours.name, ours.help_text, tuple(ours.labels), buckets=ours.bounds)

    in_flight = Gauge("in_flight", "Requests not answered yet.", multiprocess_mode="livesum")
    requests, predictions = counter(families.requests), counter(families.predictions)
    duration, stages = histogram(families.duration), histogram(families.stages)
    entropy = histogram(MODEL_FAMILIES.predictive_entropy)
    confidence = histogram(families.confidence)
    ours = MODEL_FAMILIES.accepted_confidence  # which has no buckets
    accepted = Summary(ours.name, ours.help_text, tuple(ours.labels))

    def count() -> None:
        in_flight.inc()
        predictions.labels("predict", "7").inc()
        entropy.labels("predict").observe(0.02)
        confidence.labels("predict").observe(0.99)
        accepted.labels("predict").observe(0.99)
        in_flight.dec()
        requests.labels("/predict", "200").inc()
        duration.labels("/predict").observe(6e-4)
        stages.labels("/predict", "decode").observe(5e-5)
        stages.labels("/predict", "queue").observe(1e-4)
        stages.labels("/predict", "compute").observe(4e-4)

    return _seconds(count)


def _seconds(count: Callable[[], None]) -> float:
    return min(timeit.repeat(count, number=REQUESTS, repeat=ROUNDS)) / REQUESTS


def main() -> None:
    """Measures both."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"shared memory      {here(Path(folder)) * 1e6:6.1f} microseconds a request")
        print(f"prometheus_client  {there(Path(folder)) * 1e6:6.1f} microseconds a request")


if __name__ == "__main__":
    main()
