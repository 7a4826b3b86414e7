"""The counters of two workers against what a client counted itself, also after one was killed."""

import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from tests.app.telemetry.prometheus_text import Scrape
from tests.conftest import ServerStarter, sample
from tests.load.life_cycle import workers_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

NAMES = [f"{digit}.png" for digit in range(10)] + ["doubtful.png", "not_a_digit.png"]
ROUNDS = 8
PATIENCE_SECONDS = 60.0


@dataclass
class Counted:
    """What the client saw, by the labels of the metrics."""

    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    passes: int = 0
    predictions: Counter[tuple[str, str]] = field(default_factory=Counter)
    abstentions: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, response: httpx.Response) -> None:
        """Counts one answer."""
        route = response.request.url.path
        self.requests[route, str(response.status_code)] += 1
        if response.is_error:
            self.errors[route, response.json()["error"]["code"]] += 1
            return
        body = response.json()
        for answer in body.get("predictions", [body]):
            if "error" not in answer:
                self._note_answer(answer)

    def _note_answer(self, answer: dict[str, Any]) -> None:
        mode = "mc" if "passes" in answer else "predict"
        self.passes += answer.get("passes", 0)
        self.predictions[mode, str(answer["digit"])] += 1
        if answer["decision"]["outcome"] == "abstain":
            self.abstentions[mode, answer["decision"]["reason"]] += 1


def ask(http: httpx.Client) -> Counted:
    """A known run: every sample in every way, many at a time, good and bad."""
    requests = []
    for name in NAMES * ROUNDS:
        picture = sample(name)
        requests += [
            http.build_request("POST", "/predict", content=picture),
            http.build_request("POST", "/predict/mc?passes=30", content=picture),
            http.build_request("POST", "/predict/mc?passes=0", content=picture),
            http.build_request("POST", "/predict", content=b"no image"),
        ]
    files = [("file", sample(name)) for name in NAMES] + [("file", b"no image")]
    requests += [
        http.build_request("POST", f"/predict{mc}/batch", files=files)
        for mc in ("", "/mc") * ROUNDS
    ]
    counted = Counted()
    with ThreadPoolExecutor(8) as threads:
        for response in threads.map(http.send, requests):
            counted.note(response)
    return counted


def assert_counted(seen: Scrape, *runs: Counted) -> None:
    """The counters are the sums of the runs."""

    def total(name: str) -> Counter[tuple[str, str]]:
        return sum((getattr(run, name) for run in runs), Counter())

    def series(name: str, first: str, second: str) -> dict[tuple[str, str], float]:
        return {
            (dict(labels)[first], dict(labels)[second]): value
            for (found, labels), value in seen.samples.items()
            if found == f"dropserve_{name}_total" and value
            if dict(labels).get("route") not in ("/metrics", "/health/ready")
        }

    assert series("requests", "route", "status") == total("requests")
    assert series("errors", "route", "code") == total("errors")
    assert series("predictions", "mode", "digit") == total("predictions")
    assert series("abstentions", "mode", "reason") == total("abstentions")
    passes = {"computed": sum(run.passes for run in runs)}
    assert seen.by("outcome", "passes_total") == passes
    sampled = sum(n for (mode, _), n in total("predictions").items() if mode == "mc")
    assert seen("mutual_information_nats_count") == sampled


def test_counters_agree_with_the_client_also_after_a_worker_was_killed(
    servers: ServerStarter,
) -> None:
    server = servers.start("--workers", "2")
    with httpx.Client(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        first = ask(http)
    # Whichever worker answers.
    for _ in range(4):
        assert_counted(_scrape(server.address), first)

    victim, *others = workers_of(server.process.pid)
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        seen = _try_to_scrape(server.address)
        if seen is not None and seen("worker_starts_total") == 3 and _workers(seen) == 2:
            break
        assert time.monotonic() < deadline, "no other worker came"
        time.sleep(0.1)
    assert set(others) < set(workers_of(server.process.pid))
    assert_counted(seen, first)

    with httpx.Client(base_url=server.address, timeout=PATIENCE_SECONDS) as http:
        second = ask(http)
    seen = _scrape(server.address)
    assert_counted(seen, first, second)
    assert seen("requests_in_flight") == 1  # the scrape
    assert seen("queued_passes") == 0


def _scrape(address: str) -> Scrape:
    return Scrape.of(httpx.get(f"{address}/metrics", timeout=PATIENCE_SECONDS))


def _try_to_scrape(address: str) -> Scrape | None:
    try:
        return _scrape(address)
    except httpx.TransportError:
        return None  # it was for the one that was killed


def _workers(seen: Scrape) -> float:
    return sum(seen.by("version", "model_workers", model="mnist").values())
