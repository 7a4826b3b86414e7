"""Many images at once, answers that arrive piece by piece, and work that ends before its end."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from starlette.types import Message

from app.api.application import create_app
from app.inference.pipeline import Predictor
from app.settings import Settings
from model.arrays import Floats
from model.checkpoint import Checkpoint
from model.digits.preprocessing import preprocess_image
from model.engines.protocol import PassRange
from model.engines.reference import sample_probs
from model.network import normalise
from model.uncertainty.statistics import Summaries, standard_error, summarise_together
from tests.conftest import assert_error, connect, sample

NAMES = [f"{digit}.png" for digit in range(10)] + ["doubtful.png", "not_a_digit.png"]
PATIENCE_SECONDS = 30.0
# So many passes take some tenths of a second: time enough to interrupt them.
MANY_PASSES = 65_536
PATIENT = {"max_passes": MANY_PASSES, "max_queued_passes": 10 * MANY_PASSES}


def small(name: str) -> bytes:
    """A sample as 28x28 PNG, which is decoded on the event loop."""
    with Image.open(BytesIO(sample(name))) as image:
        pixels = preprocess_image(np.array(image.convert("L")))
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def as_json(pictures: Sequence[bytes | None], **parameters: Any) -> dict[str, Any]:
    """A batch as JSON; None stands for an image that is none."""
    inputs = [
        {"image": "?"} if one is None else {"image": base64.b64encode(one).decode()}
        for one in pictures
    ]
    return {"json": {"inputs": inputs, **parameters}}


_BOUNDARY = "boundary"
FORM_TYPE = f"multipart/form-data; boundary={_BOUNDARY}"


def form_bytes(files: Sequence[bytes], name: str = "file", **fields: Any) -> bytes:
    """A body of type `FORM_TYPE`."""
    parts = [(f'name="{name}"; filename="1.png"', content) for content in files]
    parts += [(f'name="{field}"', str(value).encode()) for field, value in fields.items()]
    start = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; "
    body = b"".join(
        f"{start}{named}\r\n\r\n".encode() + content + b"\r\n" for named, content in parts
    )
    return body + f"--{_BOUNDARY}--\r\n".encode()


def as_form(pictures: Sequence[bytes | None], **parameters: Any) -> dict[str, Any]:
    """A batch as multipart/form-data; None stands for an image that is none."""
    return a_form([one or b"none" for one in pictures], **parameters)


def a_form(files: Sequence[bytes], name: str = "file", **fields: Any) -> dict[str, Any]:
    return {
        "content": form_bytes(files, name, **fields),
        "headers": {"content-type": FORM_TYPE},
    }


FORMS: dict[str, Callable[..., dict[str, Any]]] = {"JSON": as_json, "multipart": as_form}


@asynccontextmanager
async def serving(checkpoint: Checkpoint, **settings: Any) -> AsyncGenerator[FastAPI, None]:
    app = create_app(Settings(**settings), checkpoint)
    async with app.router.lifespan_context(app):
        yield app


@dataclass
class Conversation:
    """One request to the application, whose answer is seen as it comes, and may be left.

    Attributes:
        status: of the answer, once its first piece has come.
        headers: likewise.
        pieces: of the body, each with the passes that the engine had computed when it was sent.
    """

    app: FastAPI
    path: str
    body: bytes
    content_type: str = "image/png"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[bytes, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._arrived = asyncio.Event()

    @property
    def predictor(self) -> Predictor:
        predictor: Predictor = self.app.state.models.predictor
        return predictor

    @property
    def passes(self) -> int:
        """Passes computed since the beginning."""
        return self.predictor.engine.passes_computed - self._before

    async def __aenter__(self) -> Self:
        path, _, query = self.path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn has them
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"content-type", self.content_type.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("dropserve", 80),
        }
        self._before = self.predictor.engine.passes_computed
        self._incoming.put_nowait({"type": "http.request", "body": self.body, "more_body": False})
        self.task = asyncio.create_task(self.app(scope, self._incoming.get, self._send))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()
        await self.ended()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["body"]:
            self.pieces.append((message["body"], self.passes))
            self._arrived.set()
        await asyncio.sleep(0)  # a network is not instantaneous

    def leave(self) -> None:
        """What the server sees when the connection is closed."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def under_way(self) -> None:
        """Waits for the first passes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if self.passes:
                    return
                await asyncio.sleep(0)

    async def first_piece(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._arrived.wait()

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait([self.task])

    async def settled_passes(self) -> int:
        """Passes computed once the request is over, when there is no more to come."""
        await self.ended()
        computed = self.passes
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.passes == computed
        assert self.predictor.scheduler.queued == 0
        return computed

    @property
    def events(self) -> list[tuple[str, bytes]]:
        return parse_events(b"".join(piece for piece, _ in self.pieces))


def parse_events(body: bytes) -> list[tuple[str, bytes]]:
    """Names and data of server-sent events."""
    assert body.endswith(b"\n\n")
    events = []
    for block in body.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = block.split(b"\n")
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: ")
        events.append((name.removeprefix(b"event: ").decode(), data.removeprefix(b"data: ")))
    return events


# Batches

SINGLE_ROUTES = {
    "/predict": "",
    "/predict?return_input=true": "return_input=true",
    "/predict/mc?seed=3": "seed=3",
    "/predict/mc?seed=3&passes=333": "seed=3&passes=333",
    "/predict/mc?seed=4&passes=70&estimator=balanced": "seed=4&passes=70&estimator=balanced",
    "/predict/mc?seed=4&passes=400&max_standard_error=0.02": (
        "seed=4&passes=400&max_standard_error=0.02"
    ),
    "/predict/mc?seed=5&passes=3&return_passes=true": "seed=5&passes=3&return_passes=true",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("single", SINGLE_ROUTES)
async def test_each_image_of_a_batch_has_the_bytes_of_its_single_answer_in_order(
    client: httpx.AsyncClient, single: str, form: str
) -> None:
    # Large pictures are decoded in a thread and small ones at once: the order stays.
    pictures = [picture for name in NAMES for picture in (sample(name), small(name))]
    alone = [(await client.post(single, content=picture)).content for picture in pictures]
    path = single.partition("?")[0]

    together = await client.post(f"{path}/batch?{SINGLE_ROUTES[single]}", **FORMS[form](pictures))

    assert together.status_code == 200, together.text
    assert together.headers["content-type"] == "application/json"
    assert together.content == b'{"predictions":[' + b",".join(alone) + b"]}"
    assert len(set(alone)) > 10


@pytest.mark.parametrize("form", FORMS)
async def test_parameters_stand_beside_the_images_too(client: httpx.AsyncClient, form: str) -> None:
    query = await client.post(
        "/predict/mc/batch?seed=3&passes=7", **FORMS[form]([sample("doubtful.png")])
    )
    beside = await client.post(
        "/predict/mc/batch", **FORMS[form]([sample("doubtful.png")], seed=3, passes=7)
    )

    assert query.json()["predictions"][0]["passes"] == 7
    assert beside.content == query.content


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("path", ["/predict", "/predict/mc"])
async def test_one_corrupt_image_among_a_hundred_is_named_and_the_others_are_answered(
    client: httpx.AsyncClient, path: str, form: str
) -> None:
    corrupt = small("7.png")[:-30]
    pictures = [small(NAMES[number % 10]) for number in range(100)]
    expected = {
        name: (await client.post(f"{path}?seed=1" if "mc" in path else path, content=small(name)))
        for name in NAMES[:10]
    }
    pictures[41] = corrupt
    alone = await client.post(path, content=corrupt)

    query = "?seed=1" if "mc" in path else ""
    together = await client.post(f"{path}/batch{query}", **FORMS[form](pictures))

    assert together.status_code == 200
    predictions = together.json()["predictions"]
    assert len(predictions) == 100
    named = assert_error(alone, 400, "truncated_image")
    del named["request_id"]
    for number, prediction in enumerate(predictions):
        if number == 41:
            assert prediction == {"error": named}
        else:
            assert prediction == expected[NAMES[number % 10]].json()


async def test_each_kind_of_bad_image_has_its_own_error_in_its_place(
    client: httpx.AsyncClient,
) -> None:
    blank = BytesIO()
    Image.new("L", (28, 28), 255).save(blank, "PNG")
    good = {"image": base64.b64encode(sample("7.png")).decode()}
    bad: list[tuple[Any, str]] = [
        ({"image": "?"}, "invalid_parameter"),
        ({"image": ""}, "empty_body"),
        ({"image": base64.b64encode(b"text").decode()}, "not_an_image"),
        ({"image": base64.b64encode(blank.getvalue()).decode()}, "no_ink"),
        ({"pixels": [[0.5] * 28] * 28}, "invalid_pixels"),
        ({"image": "", "pixels": []}, "conflicting_parameters"),
        ({**good, "passes": 3}, "invalid_parameter"),
        ({}, "invalid_parameter"),
        (None, "invalid_parameter"),
        (7, "invalid_parameter"),
    ]
    inputs = [item for one, _ in bad for item in (one, good)]

    for path in ("/predict/batch", "/predict/mc/batch"):
        response = await client.post(path, json={"inputs": inputs})

        assert response.status_code == 200
        predictions = response.json()["predictions"]
        errors = [prediction["error"] for prediction in predictions[::2]]
        assert [error["code"] for error in errors] == [code for _, code in bad]
        assert all(error.keys() == {"code", "message", "param"} for error in errors)
        assert [prediction["digit"] for prediction in predictions[1::2]] == [7] * len(bad)


@pytest.mark.parametrize("form", FORMS)
async def test_a_batch_of_bad_images_only_is_answered(client: httpx.AsyncClient, form: str) -> None:
    for path in ("/predict/batch", "/predict/mc/batch"):
        response = await client.post(path, **FORMS[form]([None, None]))

        assert response.status_code == 200
        first, second = response.json()["predictions"]
        assert first.keys() == {"error"}
        assert first == second


async def test_in_an_unseeded_batch_each_image_draws_its_own_seed(
    client: httpx.AsyncClient,
) -> None:
    picture = small("doubtful.png")
    response = await client.post("/predict/mc/batch?passes=5", **as_json([picture] * 40))

    items = response.json()["predictions"]
    assert len({item["seed"] for item in items}) == 40
    for item in items[:5]:
        again = await client.post(f"/predict/mc?passes=5&seed={item['seed']}", content=picture)
        assert again.content in response.content
        assert again.json() == item


BAD_BATCHES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no inputs": ({"json": {}}, 422, "invalid_parameter"),
    "inputs that are no list": ({"json": {"inputs": {}}}, 422, "invalid_parameter"),
    "empty inputs": ({"json": {"inputs": []}}, 422, "invalid_parameter"),
    "a list": ({"json": [{"pixels": []}]}, 422, "invalid_parameter"),
    "one image for the single route": ({"json": {"image": ""}}, 422, "invalid_parameter"),
    "broken JSON": (
        {"content": b'{"inputs": [', "headers": {"content-type": "application/json"}},
        400,
        "invalid_json",
    ),
    "an unknown parameter": (as_json([b""], pases=3), 422, "unknown_parameter"),
    "an unknown field": (as_form([b""], pases=3), 422, "unknown_parameter"),
    "an impossible parameter": (as_json([b""], timeout_ms=0), 422, "invalid_parameter"),
    "a form without files": (
        a_form([], seed=3),
        400,
        "invalid_multipart",
    ),
    "a file in another field": (a_form([b"x"], "image"), 400, "invalid_multipart"),
    "a raw image": ({"content": sample("7.png")}, 415, "unsupported_media_type"),
    "a typed raw image": (
        {"content": sample("7.png"), "headers": {"content-type": "image/png"}},
        415,
        "unsupported_media_type",
    ),
    "nothing": (
        {"content": b"", "headers": {"content-type": "application/json"}},
        400,
        "empty_body",
    ),
    "too many as JSON": (as_json([b""] * 257), 413, "too_many_images"),
    "too many as a form": (as_form([b"x"] * 257), 413, "too_many_images"),
}


@pytest.mark.parametrize("path", ["/predict/batch", "/predict/mc/batch"])
@pytest.mark.parametrize("name", BAD_BATCHES)
async def test_what_is_wrong_with_the_whole_batch_is_one_error(
    client: httpx.AsyncClient, name: str, path: str
) -> None:
    request, status, code = BAD_BATCHES[name]

    assert_error(await client.post(path, **request), status, code)


@pytest.mark.parametrize("form", FORMS)
async def test_the_largest_batch_is_answered(client: httpx.AsyncClient, form: str) -> None:
    response = await client.post(
        "/predict/mc/batch?passes=2&seed=1", **FORMS[form]([small("8.png")] * 256)
    )

    assert len(response.json()["predictions"]) == 256
    single = await client.post("/predict/mc?passes=2&seed=1", content=small("8.png"))
    assert response.content.count(single.content) == 256


async def test_a_large_batch_does_not_hold_up_a_small_question(app: FastAPI) -> None:
    body = form_bytes([small("8.png")] * 100)
    async with Conversation(app, "/predict/mc/batch?passes=100", body, FORM_TYPE) as batch:
        await batch.under_way()
        async with Conversation(app, "/predict/mc?passes=100", small("7.png")) as question:
            await question.ended()

            assert question.status == 200
            assert question.passes < 5_000
        assert not batch.task.done()
        await batch.ended()
        assert batch.status == 200


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
    "seed=5&passes=30&return_passes=true",
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


# Work that ends before its end


LONG_REQUESTS = {
    "plain": (f"/predict/mc?passes={MANY_PASSES}", small("7.png")),
    "adaptive": (f"/predict/mc?passes={MANY_PASSES}&max_standard_error=1e-9", small("7.png")),
    "a picture decoded in a thread": (f"/predict/mc?passes={MANY_PASSES}", sample("7.png")),
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
        Conversation(app, "/predict/mc/batch?passes=10000", body, FORM_TYPE) as request,
    ):
        await request.under_way()
        request.leave()

        assert await request.settled_passes() < 20 * 10_000 / 2


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
        assert stream.predictor.scheduler.queued > MANY_PASSES
        stream.leave()

        assert await stream.settled_passes() < MANY_PASSES / 2
        assert {kind for kind, _ in stream.events} == {"estimate"}


@pytest.mark.parametrize("path", ["/predict/mc", "/predict/mc/batch"])
async def test_an_answer_that_is_late_is_a_504_and_its_passes_are_not_computed(
    default_checkpoint: Checkpoint, path: str
) -> None:
    async with serving(default_checkpoint, **PATIENT) as app, connect(app) as client:
        engine = app.state.models.predictor.engine
        before = engine.passes_computed
        request: dict[str, Any] = {"content": small("7.png")}
        if path.endswith("batch"):
            request = as_json([small("7.png")] * 3)

        response = await client.post(f"{path}?passes={MANY_PASSES}&timeout_ms=20", **request)

        assert_error(response, 504, "deadline_exceeded")
        computed = engine.passes_computed
        assert computed - before < MANY_PASSES
        for _ in range(20):
            await asyncio.sleep(0)
        assert engine.passes_computed == computed
        assert app.state.models.predictor.scheduler.queued == 0


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


@pytest.mark.parametrize("path", ["/predict", "/predict/mc", "/predict/mc/stream"])
async def test_a_deadline_beyond_the_servers_is_refused(
    client: httpx.AsyncClient, path: str
) -> None:
    most = Settings().max_timeout_ms
    within = await client.post(f"{path}?timeout_ms={most}", content=sample("7.png"))
    beyond = await client.post(f"{path}?timeout_ms={most + 1}", content=sample("7.png"))

    assert within.status_code == 200
    error = assert_error(beyond, 422, "invalid_parameter")
    assert error["param"] == "timeout_ms"
    assert str(most) in error["message"]


async def test_the_servers_own_deadline_holds_where_none_is_given(
    default_checkpoint: Checkpoint,
) -> None:
    async with (
        serving(default_checkpoint, **PATIENT, max_timeout_ms=20) as app,
        connect(app) as client,
    ):
        response = await client.post(f"/predict/mc?passes={MANY_PASSES}", content=small("7.png"))

    assert_error(response, 504, "deadline_exceeded")


class Failing:
    """In the engine's place: computes so many steps, and fails in the next."""

    def __init__(self, predictor: Predictor, steps: int) -> None:
        self._sample = predictor.engine.sample
        self._left = steps

    def __call__(self, ranges: Sequence[PassRange]) -> list[Floats]:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("SECRET of the engine")
        return self._sample(ranges)


async def test_an_engine_that_fails_midway_ends_the_stream_with_an_error_event(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    predictor: Predictor = app.state.models.predictor
    with monkeypatch.context() as patched:
        patched.setattr(predictor.engine, "sample", Failing(predictor, steps=3))
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


async def test_an_engine_that_fails_is_an_internal_error_and_the_next_request_is_answered(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor: Predictor = app.state.models.predictor
    expected = await client.post("/predict/mc?seed=1", content=sample("7.png"))
    with monkeypatch.context() as patched:
        patched.setattr(predictor.engine, "sample", Failing(predictor, steps=0))
        for path in ("/predict/mc", "/predict/mc/stream"):
            assert_error(await client.post(path, content=sample("7.png")), 500, "internal")

    again = await client.post("/predict/mc?seed=1", content=sample("7.png"))
    assert again.content == expected.content
    assert predictor.scheduler.queued == 0


async def test_an_answer_that_cannot_be_made_is_one_callers_failure(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on_ninety(probs: Sequence[Floats]) -> Summaries:
        if len(probs[0]) == 90:
            raise MemoryError
        return summarise_together(probs)

    paths = [f"/predict/mc?seed=1&passes={passes}" for passes in (50, 90, 60)]
    expected = [(await client.post(path, content=small("7.png"))).content for path in paths]
    with monkeypatch.context() as patched:
        patched.setattr("app.inference.answers.summarise_together", fail_on_ninety)
        answers = await asyncio.gather(
            *(client.post(path, content=small("7.png")) for path in paths)
        )

    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[0].content == expected[0]
    assert answers[2].content == expected[2]
    assert_error(answers[1], 500, "internal")


# Too much


ROUTES: dict[str, dict[str, Any]] = {
    "/predict": {"content": small("7.png")},
    "/predict/mc": {"content": small("7.png")},
    "/predict/mc/stream": {"content": small("7.png")},
    "/predict/batch": as_json([small("7.png")]),
    "/predict/mc/batch": as_json([small("7.png")]),
}


@pytest.mark.parametrize("path", ROUTES)
async def test_what_is_too_much_is_refused_at_once_and_costs_no_pass(
    default_checkpoint: Checkpoint, path: str
) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=1000) as app,
        connect(app) as client,
    ):
        predictor: Predictor = app.state.models.predictor
        computed = predictor.engine.passes_computed
        with predictor.scheduler.admit(1000):
            response = await client.post(path, **ROUTES[path])

            error = assert_error(response, 429, "overloaded")
            assert "Retry-After" in error["message"]
            assert int(response.headers["retry-after"]) >= 1
            assert predictor.scheduler.queued == 1000
            assert predictor.engine.passes_computed == computed

        assert (await client.post(path, **ROUTES[path])).status_code == 200
        assert predictor.scheduler.queued == 0


@pytest.mark.parametrize("path", ROUTES)
async def test_a_full_server_refuses_before_it_reads_the_body(
    default_checkpoint: Checkpoint, path: str
) -> None:
    pieces_read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pieces_read
        pieces_read += 1
        yield small("7.png")

    async with (
        serving(default_checkpoint, max_queued_passes=1000) as app,
        connect(app) as client,
    ):
        with app.state.models.predictor.scheduler.admit(1000):
            refused = await client.post(path, content=body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert pieces_read == 0

        await client.post(path, content=body())
        assert pieces_read == 1


async def test_admission_counts_passes_and_images(default_checkpoint: Checkpoint) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=10_000) as app,
        connect(app) as client,
    ):
        predictor: Predictor = app.state.models.predictor
        with predictor.scheduler.admit(6000):
            # Each needs room for twenty of its kind, and 4000 are left.
            paths = {
                "/predict/mc?passes=168": {"content": small("7.png")},
                "/predict/mc?passes=169": {"content": small("7.png")},
                "/predict/mc/batch?passes=68": as_json([small("7.png")] * 2),
                "/predict/mc/batch?passes=69": as_json([small("7.png")] * 2),
                "/predict/batch": as_json([small("7.png")] * 10),
                "/predict/batch?preprocess=auto": as_json([small("7.png")] * 11),
            }
            statuses = [
                (await client.post(path, **request)).status_code for path, request in paths.items()
            ]
        assert statuses == [200, 429, 200, 429, 200, 429]
        # While seven eighths are free, a request may be larger than the limit.
        response = await client.post(
            "/predict/mc/batch?passes=1000", **as_json([small("7.png")] * 10)
        )
        assert response.status_code == 200


async def test_of_many_at_once_the_server_takes_what_it_promised(
    default_checkpoint: Checkpoint,
) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=20_000) as app,
        connect(app) as client,
    ):
        responses = await asyncio.gather(
            *(client.post("/predict/mc?passes=1000", content=small("7.png")) for _ in range(20))
        )

        assert app.state.models.predictor.scheduler.queued == 0
    accepted = [response for response in responses if response.status_code == 200]
    assert 3 <= len(accepted) < 20
    for response in responses:
        if response not in accepted:
            assert_error(response, 429, "overloaded")


# Estimators, stopping early, and the passes themselves


async def test_passes_that_are_returned_come_from_the_neurons_said_to_be_dropped(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    network = default_checkpoint.network
    sizes = network.config.hidden_sizes
    with Image.open(BytesIO(sample("doubtful.png"))) as image:
        x = normalise(preprocess_image(np.array(image.convert("L"))), network.config)
    for query in (
        "seed=1&passes=300",
        "seed=2&passes=100&estimator=balanced",
        "seed=3&passes=400&max_standard_error=0.03",
    ):
        response = await client.post(
            f"/predict/mc?{query}&return_passes=true", content=sample("doubtful.png")
        )
        answer = response.json()

        passes = answer["passes"]
        bits = np.array(
            [np.frombuffer(base64.b64decode(row), dtype=np.uint8) for row in answer["dropped"]]
        )
        dropped = np.unpackbits(bits, axis=1)[:, : sum(sizes)].astype(bool)  # (T, hidden units)
        assert dropped.shape == (passes, sum(sizes))
        keep = torch.from_numpy(~dropped)
        masks = list(torch.split(keep, list(sizes), dim=1))
        with torch.inference_mode():
            expected = sample_probs(network, x, masks)[:, 0].numpy()
        probs = np.array(answer["pass_probabilities"], dtype=np.float32)
        np.testing.assert_allclose(probs, expected, atol=1e-5)
        # A float32 is printed with the digits that tell it from every other one.
        mean = probs.astype(np.float64).mean(axis=0).astype(np.float32)
        assert np.array_equal(mean, np.array(answer["mean"], dtype=np.float32))
        votes = np.bincount(probs.argmax(axis=1), minlength=10)
        assert votes.tolist() == answer["votes"]


async def test_passes_are_returned_only_when_asked_for(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/predict/mc?seed=1", content=sample("7.png"))).json()
    more = await client.post("/predict/mc?seed=1&return_passes=true", content=sample("7.png"))

    assert plain.keys() == more.json().keys() - {"pass_probabilities", "dropped"}
    assert plain.items() <= more.json().items()


@pytest.mark.parametrize("target", [0.05, 0.02, 0.012])
async def test_an_adaptive_answer_is_the_shortest_that_meets_the_target(
    client: httpx.AsyncClient, target: float
) -> None:
    picture = sample("doubtful.png")
    whole = await client.post("/predict/mc?seed=6&passes=1000&return_passes=true", content=picture)
    probs: NDArray[np.float32] = np.array(whole.json()["pass_probabilities"], dtype=np.float32)
    enough = next(
        passes for passes in range(32, 1001) if standard_error(probs[:passes]).max() <= target
    )

    adaptive = await client.post(
        f"/predict/mc?seed=6&passes=1000&max_standard_error={target}", content=picture
    )
    fixed = await client.post(f"/predict/mc?seed=6&passes={enough}", content=picture)

    assert adaptive.json()["passes"] == enough < 1000
    assert adaptive.json()["stop_reason"] == "standard_error"
    assert max(adaptive.json()["standard_error"]) <= target
    assert adaptive.json() == fixed.json() | {"stop_reason": "standard_error"}


async def test_an_adaptive_answer_stops_the_passes_that_it_does_not_need(app: FastAPI) -> None:
    async with Conversation(
        app, "/predict/mc?passes=1000&max_standard_error=0.5", small("7.png")
    ) as request:
        await request.ended()

        assert (request.status, request.passes) == (200, 32)


async def test_a_target_that_is_not_met_takes_all_passes(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/predict/mc?seed=1&passes=100&max_standard_error=1e-9", content=sample("doubtful.png")
    )
    plain = await client.post("/predict/mc?seed=1&passes=100", content=sample("doubtful.png"))

    assert response.json()["stop_reason"] == "passes"
    assert response.content == plain.content


async def test_balanced_passes_are_others_and_say_so(client: httpx.AsyncClient) -> None:
    for passes in (50, 200):
        path = f"/predict/mc?seed=1&passes={passes}"
        plain = await client.post(path, content=sample("doubtful.png"))
        balanced = await client.post(f"{path}&estimator=balanced", content=sample("doubtful.png"))
        named = await client.post(f"{path}&estimator=independent", content=sample("doubtful.png"))

        assert balanced.json()["estimator"] == "balanced"
        assert balanced.json()["mean"] != plain.json()["mean"]
        assert named.content == plain.content


def large_photo() -> bytes:
    """300 kB of JPEG: decoded in a thread, and counted as 2000 passes."""
    noise = np.random.default_rng(0).integers(0, 256, (1000, 1000), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


async def test_one_photo_leaves_half_of_the_queue_to_others(
    default_checkpoint: Checkpoint,
) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=4000) as app,
        connect(app) as client,
    ):
        scheduler = app.state.models.predictor.scheduler
        photo = asyncio.create_task(client.post("/predict", content=large_photo()))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while scheduler.queued == 0:  # noqa: ASYNC110 - it is counted within the request
                await asyncio.sleep(0)
        assert 1600 < scheduler.queued < 2400
        assert (await client.post("/predict/mc", content=small("7.png"))).status_code == 200
        await photo
        assert scheduler.queued == 0


@pytest.mark.parametrize("path", ["/predict", "/predict/mc"])
async def test_a_second_photo_waits_for_the_first(
    default_checkpoint: Checkpoint, path: str
) -> None:
    async with (
        serving(default_checkpoint, max_queued_passes=4000) as app,
        connect(app) as client,
    ):
        answers = await asyncio.gather(
            *(client.post(path, content=large_photo()) for _ in range(2))
        )
    for answer in answers:  # noise has no ink: nobody was turned away before that was seen
        assert_error(answer, 422, "no_ink")
