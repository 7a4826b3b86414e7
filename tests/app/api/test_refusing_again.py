"""Under overload the next request with a refused one's head is refused as the first one was."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from unittest.mock import Mock

import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from app.api.predictions import _of_batch
from app.errors import ApiError
from app.inference.backlog import Charge
from app.process.refusing import RefusingProtocol, refusing_protocol
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.api.conversation import full, serving
from tests.app.api.request_bodies import FORM, encode, form_bytes, network_input, small, threaded
from tests.app.open_inference.inference_requests import json_body
from tests.app.process.waiting import PATIENCE_SECONDS, until
from tests.conftest import connect

BATCH = form_bytes([small("7.png")] * 3)
# Path, content type and body.
REQUESTS = {
    "one image": ("/predict/mc?passes=9&seed=1", "image/png", small("7.png")),
    "one picture": ("/predict", "image/png", threaded("7.png")),
    "a batch": ("/predict/mc/batch?passes=9", FORM, BATCH),
    "a stream": ("/predict/mc/stream", "image/png", small("7.png")),
    "a form": ("/predict/mc", FORM, form_bytes([small("7.png")])),
    "an inference request": (
        "/v2/models/mnist/infer",
        "application/json",
        json_body(network_input(small("7.png"))[None]).content,
    ),
}


class Connection:
    """To the application, by way of the protocol."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def post(self, path: str, kind: str, body: bytes) -> tuple[str, dict[str, str], bytes]:
        """Status line, headers and body of the answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: {kind}\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines if line)
            content = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return status, headers, content


@asynccontextmanager
async def connected(app: FastAPI) -> AsyncIterator[Connection]:
    protocol = refusing_protocol(app.state.settings, app.state.metrics)
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
    state, loop = ServerState(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
        await until(lambda: not state.connections)
        server.close()


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_refusal_by_its_head_is_the_usual_one(
    default_checkpoint: Checkpoint, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kind, body = REQUESTS[name]
    refused = []
    usual = RefusingProtocol._refuse_again

    def note(self: RefusingProtocol, data: bytes, start: int) -> int:
        refused.append(usual(self, data, start))
        return refused[-1]

    monkeypatch.setattr(RefusingProtocol, "_refuse_again", note)
    async with (
        serving(default_checkpoint, max_wait_ms=1) as app,
        connected(app) as connection,
        connect(app) as client,
    ):
        with full(app):
            answers = [await connection.post(path, kind, body) for _ in range(3)]
        assert list(map(bool, refused)) == [True, True]

        ids, others = [], []
        for status, headers, content in answers:
            ids.append(headers.pop("x-request-id"))
            others.append((status, headers, content.replace(ids[-1].encode(), b"")))
        assert others[0][0] == "HTTP/1.1 429 Too Many Requests"
        assert others[1:] == others[:1] * 2
        assert len(set(ids)) == 3
        assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)

        text = (await client.get("/metrics")).text
        assert re.search(r'requests_total{.*"429".*} 3\n', text)
        assert (await connection.post(path, kind, body))[0] == "HTTP/1.1 200 OK"


async def test_a_picture_that_came_whole_is_refused_by_its_head(
    default_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the threads that decode have too much to do; small pictures need none."""
    picture, asked = encode(Image.new("L", (1500, 1500)), "JPEG"), []
    usual = RefusingProtocol._refuse_again

    def note(self: RefusingProtocol, data: bytes, start: int) -> int:
        asked.append(bool(usual(self, data, start)))
        return asked[-1] and len(data)

    monkeypatch.setattr(RefusingProtocol, "_refuse_again", note)
    async with serving(default_checkpoint) as app, connected(app) as connection:
        backlog = app.state.models.predictor._reader.backlog
        with ExitStack() as queued:
            for _ in range(200):
                queued.enter_context(Charge(backlog, 10_000))
            for _ in range(2):
                answer = await connection.post("/predict", "image/jpeg", picture)
                assert answer[0] == "HTTP/1.1 429 Too Many Requests"
            answer = await connection.post("/predict", "image/png", small("7.png"))
            assert answer[0] == "HTTP/1.1 200 OK"

    assert asked == [True]


async def test_a_batchs_images_count_unless_its_body_may_name_passes() -> None:
    asked = []

    def recheck(images: int) -> int:
        asked.append(images)
        return 5

    assert _of_batch(recheck, BATCH, len(BATCH)) == 5  # type: ignore[arg-type]
    assert _of_batch(recheck, BATCH[:-1], len(BATCH)) is None  # type: ignore[arg-type]
    named = BATCH + b'name="passes"'
    assert _of_batch(recheck, named, len(named)) is None  # type: ignore[arg-type]
    assert asked == [3]


async def test_a_refusal_leaves_nothing_to_the_garbage_collector(
    default_checkpoint: Checkpoint,
) -> None:
    path, kind, body = REQUESTS["one image"]
    async with (
        serving(default_checkpoint, max_wait_ms=1) as app,
        connected(app) as connection,
    ):
        with full(app):
            await connection.post(path, kind, body)
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for number in range(10):  # heads of their own, and then the same again
                    await connection.post(f"{path}&timeout_ms={1000 + number % 5}", kind, body)
                gc.collect()
                # That of others is there, too.
                states = [one for one in gc.garbage if type(one) is dict and "request_id" in one]
                kinds = {type(each) for each in gc.garbage}
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
            assert not states
            assert not kinds & {ApiError, RequestResponseCycle}


async def test_any_of_the_requests_that_came_in_the_same_turns_may_be_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new connection is read later than one that was kept, which may ask again and again."""
    asked: list[RefusingProtocol] = []
    protocol = refusing_protocol(Settings())
    monkeypatch.setattr(protocol, "_ask", lambda self, received: asked.append(self))
    config = uvicorn.Config(lambda: None, log_config=None)
    kept, new, closed = (protocol(config, ServerState(), {}) for _ in range(3))
    for each in (kept, new, closed):
        each.transport = Mock(is_closing=Mock(return_value=each is closed))
    for _ in range(100):
        protocol.asking.update({kept: [b""], new: [b""], closed: [b""]})
        kept._ask_all()
    assert set(asked[::2]) == {kept, new}
    assert asked.count(kept) == asked.count(new) == 100
