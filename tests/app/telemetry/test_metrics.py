"""`GET /metrics`: what is counted, and that each route counts it once."""

import time
from bisect import bisect_left
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from app.api.application import create_app
from app.api.routes import OTHER, ROUTE_LABELS
from app.settings import Settings
from app.telemetry.metric_families import Counter, Histogram
from app.telemetry.metrics import Families, Metrics, MetricsRow
from app.telemetry.model_counts import MODEL_FAMILIES
from model.checkpoint import Checkpoint
from tests.app.api.request_bodies import small
from tests.app.telemetry.prometheus_text import Scrape
from tests.conftest import assert_error, connect, sample


@asynccontextmanager
async def counting(
    checkpoint: Checkpoint, **settings: Any
) -> AsyncIterator[tuple[FastAPI, httpx.AsyncClient]]:
    """An application that has counted nothing yet."""
    app = create_app(Settings(**settings), checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        yield app, client


async def scrape(client: httpx.AsyncClient) -> Scrape:
    return Scrape.of(await client.get("/metrics"))


async def test_nothing_is_counted_before_the_first_request(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint) as (_, client):
        seen = await scrape(client)

    # The scrape itself is under way.
    always = {"dropserve_requests_in_flight", "dropserve_queued_passes_limit"}
    always |= {"dropserve_worker_starts_total", "dropserve_model_workers"}
    always |= {"dropserve_reference_entropy_ratio"}
    assert {name for (name, _), value in seen.samples.items() if value} == always


def digit_of(answer: httpx.Response) -> int:
    digit: int = answer.json()["outputs"][0]["data"][0]
    return digit


async def test_each_route_to_an_answer_counts_once(default_checkpoint: Checkpoint) -> None:
    files = [("file", sample("7.png")), ("file", sample("doubtful.png")), ("file", b"no image")]
    tensor: dict[str, Any] = {"name": "pixels", "shape": [1, 784], "datatype": "UINT8"}
    tensor["data"] = [0] * 300 + [255] * 60 + [0] * 424
    mc = {"inputs": [tensor], "parameters": {"passes": 30}}
    async with counting(default_checkpoint) as (_, client):
        answers = [
            await client.post("/predict", content=sample("7.png")),
            await client.post("/predict/mc?passes=20&seed=1", content=sample("doubtful.png")),
            await client.post("/predict/mc/stream?passes=40", content=sample("3.png")),
            await client.post("/predict/batch", files=files),
            await client.post("/predict/mc/batch?passes=10", files=files),
            await client.post("/v2/models/mnist/infer", json={"inputs": [tensor]}),
            await client.post("/v2/models/mnist-mc/versions/1/infer", json=mc),
        ]
        seen = await scrape(client)

    assert [answer.status_code for answer in answers] == [200] * 7
    assert seen.by("route", "requests_total", status="200") == dict.fromkeys(
        [
            "/predict",
            "/predict/mc",
            "/predict/mc/stream",
            "/predict/batch",
            "/predict/mc/batch",
            "/v2/models/{model}/infer",
            "/v2/models/{model}/versions/{version}/infer",
        ],
        1,
    )
    # 20, 40, two images of 10, 30
    assert seen.by("outcome", "passes_total") == {"computed": 110}
    assert seen.by("code", "image_errors_total") == {"not_an_image": 2}
    predicted = [answers[0].json(), *answers[3].json()["predictions"][:2]]
    sampled = [answers[1].json(), *answers[4].json()["predictions"][:2]]
    abstentions = [one["decision"]["outcome"] for one in sampled].count("abstain")
    predicted = [one["digit"] for one in predicted] + [digit_of(answers[5])]
    sampled = [one["digit"] for one in sampled] + [3, digit_of(answers[6])]
    for mode, digits in (("predict", predicted), ("mc", sampled)):
        counted = {str(digit): digits.count(digit) for digit in digits}
        assert seen.by("digit", "predictions_total", mode=mode) == counted
        assert seen("confidence_ratio_count", mode=mode) == len(digits)
        assert seen("predictive_entropy_nats_count", model="mnist", mode=mode) == len(digits)
    assert seen("mutual_information_nats_count") == len(sampled)
    assert 0 < abstentions <= sum(seen.by("reason", "abstentions_total", mode="mc").values())
    for stage in ("decode", "queue", "compute"):
        counts = seen.by("route", "stage_duration_seconds_count", stage=stage)
        assert counts == dict.fromkeys(counts, 1)
        assert len(counts) == 7


async def test_what_the_network_answers_is_summed_up(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint) as (_, client):
        names = ("7.png", "doubtful.png", "not_a_digit.png")
        url = "/predict/mc?seed=1"
        answers = [(await client.post(url, content=sample(name))).json() for name in names]
        seen = await scrape(client)

    def total(key: str) -> Any:
        return pytest.approx(sum(answer[key] for answer in answers), rel=1e-5)

    assert seen("predictive_entropy_nats_sum", model="mnist", mode="mc") == total(
        "predictive_entropy"
    )
    assert seen("mutual_information_nats_sum") == total("mutual_information")
    assert seen("confidence_ratio_sum", mode="mc") == total("confidence")
    assert seen.by("reason", "abstentions_total", mode="mc") == {"ambiguous": 1, "unfamiliar": 1}
    assert seen("confidence_ratio_bucket", mode="mc", le="0.999") == sum(
        answer["confidence"] <= 0.999 for answer in answers
    )


async def test_errors_count_by_code_and_not_as_predictions(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint, max_body_bytes=2000) as (_, client):
        await client.get("/no/such/place")
        await client.get("/predict")
        await client.post("/predict", content=b"no image")
        await client.post("/predict", content=b"")
        await client.post("/predict/mc?passes=0", content=sample("7.png"))
        await client.post("/predict/mc", content=bytes(3000))
        await client.post("/v2/models/mnist/infer", content=b"{}")
        await client.post("/v2/models/other/infer", content=b"{}")
        seen = await scrape(client)

    def by_code(route: str) -> dict[str, float]:
        return seen.by("code", "errors_total", route=route)

    assert by_code(OTHER) == {"not_found": 1}
    assert by_code("/predict") == {"method_not_allowed": 1, "not_an_image": 1, "empty_body": 1}
    assert by_code("/predict/mc") == {"invalid_parameter": 1, "body_too_large": 1}
    assert by_code("/v2/models/{model}/infer") == {"invalid_request": 1, "not_found": 1}
    assert seen.by("status", "requests_total", route="/predict") == {"405": 1, "415": 1, "400": 1}
    assert seen.by("digit", "predictions_total", mode="predict") == {}
    assert seen.by("route", "stage_duration_seconds_count", stage="compute") == {}


async def test_a_stream_that_fails_is_an_error_though_its_status_is_200(
    default_checkpoint: Checkpoint,
) -> None:
    async with counting(default_checkpoint, max_passes=65_536) as (app, client):
        predictor = app.state.models.predictor
        # After a quarter of the passes, and some partial results, it is too late.
        enough = predictor.engine.passes_computed + 65_536 // 4
        predictor.scheduler._clock = lambda: (
            time.monotonic() + (1000 if predictor.engine.passes_computed > enough else 0)
        )
        answer = await client.post("/predict/mc/stream?passes=65536", content=small("7.png"))
        seen = await scrape(client)

    assert "event: error" in answer.text
    assert seen("requests_total", route="/predict/mc/stream", status="200") == 1
    assert seen("errors_total", route="/predict/mc/stream", code="deadline_exceeded") == 1
    passes = seen.by("outcome", "passes_total")
    assert passes["cancelled"] > 0
    assert sum(passes.values()) == 65_536
    assert seen.by("digit", "predictions_total", mode="mc") == {}
    assert seen("queued_passes") == 0


async def test_a_defect_counts_as_internal(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint) as (app, client):
        app.state.models = None
        assert (await client.post("/v2/models/mnist/infer")).status_code == 500
        seen = await scrape(client)

    assert seen("errors_total", route="/v2/models/{model}/infer", code="internal") == 1
    assert seen("requests_in_flight") == 1  # the scrape


async def test_passes_that_are_not_needed_are_spared(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint) as (_, client):
        url = "/predict/mc?passes=1000&max_standard_error=0.05"
        answered = (await client.post(url, content=sample("7.png"))).json()["passes"]
        seen = await scrape(client)

    passes = seen.by("outcome", "passes_total")
    assert sum(passes.values()) == 1000
    # Looked at 32 passes at a time.
    assert 0 <= passes["computed"] - answered < 32


async def test_a_client_that_disconnects_is_counted_as_499(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint) as (app, client):

        async def receive() -> dict[str, str]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError(message)

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "app": app}
        await app(scope | {"query_string": b""}, receive, send)
        seen = await scrape(client)

    assert seen.by("status", "requests_total", route="/predict") == {"499": 1}


async def test_metrics_can_be_turned_off(default_checkpoint: Checkpoint) -> None:
    async with counting(default_checkpoint, metrics=False) as (_, client):
        assert (await client.post("/predict", content=sample("7.png"))).status_code == 200
        assert (await client.post("/predict/mc", content=sample("7.png"))).status_code == 200
        assert_error(await client.get("/metrics"), 404, "not_found")


def test_workers_count_together_and_a_replacement_goes_on(tmp_path: Path) -> None:
    first, second = MetricsRow.create(ROUTE_LABELS, tmp_path / "counts", 2)
    one, other = first.open(), second.open()
    for metrics in (one, other):
        metrics.serve_models({"mnist": "d9dc6791d91d"}, 100)
        metrics.begin_request()
        metrics.change_queue(40)
        metrics.count_image_error("no_ink")

    def scraped() -> Scrape:
        return Scrape(other.text().decode())

    model = {"model": "mnist", "version": "d9dc6791d91d"}
    assert scraped()("image_errors_total", code="no_ink") == 2
    assert (scraped()("queued_passes"), scraped()("queued_passes_limit")) == (80, 200)
    assert scraped()("model_workers", **model) == 2

    first.retire()  # as if it had been killed
    assert scraped()("image_errors_total", code="no_ink") == 2
    assert (scraped()("queued_passes"), scraped()("requests_in_flight")) == (40, 1)
    assert scraped()("model_workers", **model) == 1

    first.open().count_image_error("no_ink")
    assert scraped()("image_errors_total", code="no_ink") == 3
    assert scraped()("worker_starts_total") == 3


def test_while_workers_reload_both_versions_are_reported(tmp_path: Path) -> None:
    rows = MetricsRow.create(ROUTE_LABELS, tmp_path / "counts", 2)
    one, other = (row.open() for row in rows)
    one.serve_models({'a "name"\\': "1"}, 100)
    other.serve_models({"mnist": "2"}, 100)

    seen = Scrape(one.text().decode())

    assert seen("model_workers", model='a "name"\\', version="1") == 1
    assert seen("model_workers", model="mnist", version="2") == 1


def test_names_have_their_units_and_say_what_they_are() -> None:
    families = [*Families(ROUTE_LABELS).every, *MODEL_FAMILIES.every]
    for family in families:
        assert family.name.startswith("dropserve_")
        assert family.name.endswith("_total") == isinstance(family, Counter)
        assert family.help_text.endswith(".")
        if isinstance(family, Histogram):
            assert family.name.endswith(("_seconds", "_nats", "_ratio", "_images"))
            assert sorted(set(family.bounds)) == list(family.bounds)
    (duration,) = [one for one in families if one.name == "dropserve_request_duration_seconds"]
    assert isinstance(duration, Histogram)
    assert bisect_left(duration.bounds, 50e-6) == 0


def test_metrics_of_one_process_need_no_file() -> None:
    alone = Metrics(ROUTE_LABELS)
    alone.begin_request()
    assert Scrape(alone.text().decode())("requests_in_flight") == 1
    assert Scrape(Metrics(ROUTE_LABELS).text().decode())("requests_in_flight") == 0


async def test_a_mounted_application_labels_its_own_paths(
    default_checkpoint: Checkpoint,
) -> None:
    async with counting(default_checkpoint) as (app, client):
        async with connect(Starlette(routes=[Mount("/digits", app)])) as outer:
            answer = await outer.post("/digits/predict", content=sample("7.png"))
        assert answer.status_code == 200
        seen = await scrape(client)

    assert seen.by("route", "requests_total", status="200") == {"/predict": 1}
