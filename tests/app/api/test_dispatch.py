"""A request is refused before it is read, and given up once its client is gone."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from PIL import Image
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from app.api.dispatch import while_connected
from app.inference.pipeline import Predictor
from model.checkpoint import Checkpoint
from tests.app.api.conversation import (
    MANY_PASSES,
    PATIENCE_SECONDS,
    PATIENT,
    Conversation,
    full,
    serving,
)
from tests.app.api.request_bodies import (
    FORM,
    PREDICTIONS,
    encode,
    form_bytes,
    network_input,
    small,
    threaded,
)
from tests.app.open_inference.inference_requests import json_body
from tests.app.process.waiting import until
from tests.conftest import connect, sample

LONG_REQUESTS = {
    "plain": (f"/predict/mc?passes={MANY_PASSES}", small("7.png")),
    "adaptive": (f"/predict/mc?passes={MANY_PASSES}&max_standard_error=1e-9", small("7.png")),
    "a picture decoded in a thread": (f"/predict/mc?passes={MANY_PASSES}", threaded("7.png")),
}


@pytest.mark.parametrize("name", LONG_REQUESTS)
async def test_a_client_that_goes_away_stops_the_remaining_passes(
    default_checkpoint: Checkpoint, name: str
) -> None:
    async with serving(default_checkpoint, **PATIENT) as app:
        async with Conversation(app, *LONG_REQUESTS[name]) as request:
            await request.under_way()
            request.leave()

            assert await request.settled_passes() < MANY_PASSES / 2
            assert request.pieces == []

        async with connect(app) as client:
            assert (await client.post("/predict/mc", content=sample("7.png"))).json()["digit"] == 7


async def test_a_batchs_client_that_goes_away_stops_the_remaining_passes(
    default_checkpoint: Checkpoint,
) -> None:
    body = form_bytes([small("7.png")] * 20)
    async with (
        serving(default_checkpoint, **PATIENT) as app,
        Conversation(app, "/predict/mc/batch?passes=10000", body, FORM) as request,
    ):
        await request.under_way()
        request.leave()

        assert await request.settled_passes() < 20 * 10_000 / 2


@pytest.mark.parametrize("path", ["/predict", "/predict/mc"])
async def test_a_client_that_goes_away_while_its_picture_waits_for_a_thread_is_forgotten(
    default_checkpoint: Checkpoint, path: str
) -> None:
    may_end = threading.Event()
    async with serving(default_checkpoint) as app:
        predictor: Predictor = app.state.models.predictor
        deadline = time.monotonic() + PATIENCE_SECONDS
        threads = [
            asyncio.create_task(predictor._reader.in_thread(may_end.wait, deadline))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        async with Conversation(app, path, threaded("7.png")) as request:
            await until(lambda: predictor._reader.backlog.total > 0)
            request.leave()

            assert await request.settled_passes() == 0
            assert request.pieces == []
            assert predictor._reader.backlog.total == 0
        may_end.set()
        await asyncio.gather(*threads)


@pytest.mark.parametrize("path", PREDICTIONS)
async def test_a_full_server_refuses_before_it_reads_the_body(
    default_checkpoint: Checkpoint, path: str
) -> None:
    pieces_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pieces_read
        pieces_read += 1
        yield small("7.png")

    async with serving(default_checkpoint, max_wait_ms=1) as app, connect(app) as client:
        with full(app):
            refused = await client.post(path, content=body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert pieces_read == 0

        await client.post(path, content=body())
        assert pieces_read == 1


@pytest.mark.parametrize(
    ("content_type", "passes", "status", "pieces"),
    [
        ("image/png", 1000, 429, 0),
        ("image/png", 1, 200, 1),
        ("application/json", 1000, 400, 1),  # which may ask for other passes
    ],
)
async def test_what_the_query_asks_for_is_refused_before_the_body_is_read(
    default_checkpoint: Checkpoint, content_type: str, passes: int, status: int, pieces: int
) -> None:
    pieces_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pieces_read
        pieces_read += 1
        yield small("7.png")

    async with serving(default_checkpoint, max_wait_ms=1) as app, connect(app) as client:
        with app.state.models.predictor.scheduler.admit(1_000_000):
            answer = await client.post(
                f"/predict/mc?passes={passes}",
                content=body(),
                headers={"content-type": content_type},
            )

        assert (answer.status_code, pieces_read) == (status, pieces)


@pytest.mark.parametrize("side", [100, 3000])
async def test_a_picture_that_would_wait_too_long_is_refused_by_its_first_part(
    default_checkpoint: Checkpoint, side: int
) -> None:
    picture, pieces_read = encode(Image.linear_gradient("L").resize((side, side)), "PNG"), 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pieces_read
        for piece in (picture[:100], picture[100:]):
            pieces_read += 1
            yield piece

    async with serving(default_checkpoint, max_wait_ms=30) as app, connect(app) as client:
        with app.state.models.predictor._reader.charge([picture]):
            answer = await client.post("/predict", content=body())

        is_large = side > 1000
        assert (answer.status_code == 429, pieces_read) == (is_large, 1 if is_large else 2)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [(FORM, b"filename=" * 200), ("application/json", b'{"image"' * 200)],
)
async def test_a_batch_that_would_wait_too_long_is_refused_before_it_is_parsed(
    default_checkpoint: Checkpoint, content_type: str, body: bytes
) -> None:
    """Which is neither a form nor JSON; unless it may ask for few passes."""

    async def post(content: bytes) -> int:
        headers = {"content-type": content_type}
        response = await client.post("/predict/mc/batch", content=content, headers=headers)
        return response.status_code

    async with serving(default_checkpoint, max_wait_ms=1) as app, connect(app) as client:
        assert await post(body) == 400
        with app.state.models.predictor.scheduler.admit(1_000_000):
            assert await post(body) == 429
            assert await post(body + b"passes") == 400
            assert (await client.post("/predict", content=small("7.png"))).status_code == 200


@pytest.mark.parametrize("path", [*PREDICTIONS, "/v2/models/mnist-mc/infer"])
async def test_a_body_that_arrives_after_a_reload_is_answered_by_the_new_engine(
    default_checkpoint: Checkpoint, path: str
) -> None:
    seven = network_input(sample("7.png")).reshape(1, -1)
    asked = PREDICTIONS.get(path) or {"content": json_body(seven).content}
    sent = httpx.Request("POST", "http://dropserve", **asked)
    async with serving(default_checkpoint, max_timeout_ms=300) as app, connect(app) as client:
        old = app.state.models.predictor

        async def slowly() -> AsyncIterator[bytes]:
            yield sent.content[:10]
            await app.state.models.reload()  # and the old engine is closed
            assert app.state.models.predictor is not old
            yield sent.content[10:]

        headers = {"content-type": sent.headers.get("content-type", "")}
        response = await client.post(path, content=slowly(), headers=headers)

    assert response.status_code == 200, response.text
    assert b'"error"' not in response.content


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_request_is_admitted_before_the_next_one_is_looked_at() -> None:
    order = []

    async def admit() -> None:
        order.append("admitted")
        await asyncio.sleep(0)

    async def look() -> None:
        order.append("the next one")

    await asyncio.gather(while_connected(Request({"type": "http"}, _never), admit()), look())

    assert order == ["admitted", "the next one"]


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_task_that_is_cancelled_is_no_client_that_is_gone(is_gone: bool) -> None:
    has_begun, is_given_up = asyncio.Event(), asyncio.Event()

    async def receive() -> Message:
        await has_begun.wait()
        return {"type": "http.disconnect"} if is_gone else await _never()

    async def compute() -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            is_given_up.set()

    request = Request({"type": "http"}, receive)
    task = asyncio.create_task(while_connected(request, compute()))
    await has_begun.wait()
    if not is_gone:
        task.cancel()
    with pytest.raises(ClientDisconnect if is_gone else asyncio.CancelledError):
        await task

    assert is_given_up.is_set()
    assert task.cancelled() is not is_gone
    assert task.cancelling() == (not is_gone)
