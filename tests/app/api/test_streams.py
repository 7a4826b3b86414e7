"""Answers that arrive piece by piece, and how a stream ends before its result."""

import json

import httpx
import pytest
from fastapi import FastAPI

from app.inference.pipeline import Predictor
from model.checkpoint import Checkpoint
from tests.app.api.conversation import MANY_PASSES, PATIENT, Conversation, parse_events, serving
from tests.app.api.request_bodies import small
from tests.app.inference.failing_engine import FailingSample
from tests.conftest import assert_error, sample

# Streams


QUERIES = [
    "seed=1&passes=1000",
    "seed=1&passes=50",
    "seed=1&passes=7",
    "seed=1&passes=1",
    "seed=2&passes=1000&estimator=balanced",
    "seed=2&passes=20&estimator=balanced",
    "seed=3&passes=1000&max_standard_error=0.02",
    "seed=3&passes=40&max_standard_error=1e-9",
    "seed=4&passes=300&return_input=true",
    "seed=4&passes=40&return_steps=true",
    "seed=5&passes=30&return_passes=true",
    "seed=6&passes=200&dropout=0.6",
    "seed=6&passes=400&dropout=0.6&max_standard_error=0.02",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("name", ["doubtful.png", "1.png"])
async def test_a_streams_result_is_the_plain_answer_byte_for_byte(
    client: httpx.AsyncClient, name: str, query: str
) -> None:
    plain = await client.post(f"/predict/mc?{query}", content=sample(name))

    stream = await client.post(f"/predict/mc/stream?{query}", content=sample(name))

    assert (plain.status_code, stream.status_code) == (200, 200)
    *estimates, (last, data) = parse_events(stream.content)
    assert last == "result"
    assert data == plain.content
    assert {kind for kind, _ in estimates} <= {"estimate"}
    passes = [json.loads(estimate)["passes"] for _, estimate in estimates]
    assert passes == sorted(set(passes))
    assert all(count < plain.json()["passes"] for count in passes)
    if plain.json()["passes"] > 100:
        assert len(passes) >= 3


async def test_an_estimate_has_the_fields_of_the_answer_so_far(client: httpx.AsyncClient) -> None:
    stream = await client.post(
        "/predict/mc/stream?seed=1&passes=500", content=sample("doubtful.png")
    )

    for kind, data in parse_events(stream.content)[:-1]:
        assert kind == "estimate"
        estimate = json.loads(data)
        assert estimate.pop("stop_reason") is None
        so_far = await client.post(
            f"/predict/mc?seed=1&passes={estimate['passes']}", content=sample("doubtful.png")
        )
        assert estimate.items() <= so_far.json().items()


async def test_the_first_event_comes_before_the_last_pass_is_computed(app: FastAPI) -> None:
    async with Conversation(app, "/predict/mc/stream?passes=1000", small("doubtful.png")) as stream:
        await stream.ended()

        computed = [passes for _, passes in stream.pieces]
        assert computed[0] < 500
        assert computed[-1] == 1000
        assert len(set(computed)) >= 5


async def test_no_proxy_stores_or_holds_back_a_stream(client: httpx.AsyncClient) -> None:
    stream = await client.post("/predict/mc/stream", content=sample("7.png"))

    assert stream.headers["content-type"].partition(";")[0] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    assert "content-length" not in stream.headers
    assert stream.headers["x-request-id"]


@pytest.mark.parametrize(
    ("query", "body", "status", "code"),
    [
        ("", b"", 400, "empty_body"),
        ("", b"text", 415, "not_an_image"),
        ("", sample("7.png")[:-30], 400, "truncated_image"),
        ("?pases=3", sample("7.png"), 422, "unknown_parameter"),
        ("?passes=0", sample("7.png"), 422, "invalid_parameter"),
        ("?max_standard_error=0", sample("7.png"), 422, "invalid_parameter"),
    ],
)
async def test_what_fails_before_the_first_event_is_a_plain_error(
    app: FastAPI, client: httpx.AsyncClient, query: str, body: bytes, status: int, code: str
) -> None:
    response = await client.post(f"/predict/mc/stream{query}", content=body)

    assert_error(response, status, code)
    assert app.state.models.predictor.scheduler.queued == 0


async def test_a_reader_that_goes_away_stops_the_stream(
    default_checkpoint: Checkpoint,
) -> None:
    async with (
        serving(default_checkpoint, **PATIENT) as app,
        Conversation(
            app, f"/predict/mc/stream?passes={MANY_PASSES}", small("doubtful.png")
        ) as stream,
    ):
        await stream.first_piece()
        assert stream.predictor.scheduler.queued > MANY_PASSES / 2
        stream.leave()

        assert await stream.settled_passes() < MANY_PASSES / 2
        assert {kind for kind, _ in stream.events} == {"estimate"}


# Streams that fail


async def test_a_deadline_ends_a_stream_with_an_error_event(
    default_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        serving(default_checkpoint, **PATIENT) as app,
        Conversation(app, f"/predict/mc/stream?passes={MANY_PASSES}", small("7.png")) as stream,
    ):
        await stream.first_piece()
        monkeypatch.setattr(stream.predictor.scheduler, "_clock", lambda: float("inf"))
        await stream.ended()

        assert stream.passes < MANY_PASSES
        kind, data = stream.events[-1]
        assert kind == "error"
        assert json.loads(data)["error"]["code"] == "deadline_exceeded"
        assert "result" not in {kind for kind, _ in stream.events}


async def test_an_engine_that_fails_midway_ends_the_stream_with_an_error_event(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predictor: Predictor = app.state.models.predictor
    with monkeypatch.context() as patched:
        patched.setattr(predictor.engine, "sample", FailingSample(predictor, steps=3))
        async with Conversation(
            app, "/predict/mc/stream?passes=1000", small("doubtful.png")
        ) as stream:
            await stream.ended()

    *estimates, (last, data) = stream.events
    assert {kind for kind, _ in estimates} == {"estimate"}
    assert last == "error"
    error = json.loads(data)["error"]
    assert error.keys() == {"code", "message", "param", "request_id"}
    assert (error["code"], error["request_id"]) == ("internal", stream.headers["x-request-id"])
    assert b"SECRET" not in data
    assert "SECRET" in caplog.text
    assert predictor.scheduler.queued == 0
