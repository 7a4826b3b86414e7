"""What large bodies cost the other requests: no time on the event loop, and a limited memory."""

import asyncio
import gzip
import json
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from app.api import receiving, v2
from app.api.application import create_app
from app.api.compression import inflate
from app.errors import ErrorCode
from app.inference.base64_images import decode_base64
from app.open_inference.requests import parse_request
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.api_errors import raises_error
from tests.app.api.bad_requests import IMAGE, ROWS
from tests.app.api.request_bodies import FORM, JSON, as_form, form, part
from tests.app.open_inference.inference_requests import DIGIT, json_body
from tests.app.process.waiting import until
from tests.conftest import assert_error, connect, sample

MiB = 2**20
# And whether one takes several images.
PATHS = {
    "/predict": False,
    "/predict/mc/batch": True,
    "/v2/models/mnist-mc/infer": True,
    "/v2/repository/index": False,
}
# About ten megabytes each.
MUCH: dict[str, bytes] = {
    "lists": b"[" + b"[]," * 3_400_000 + b"[]]",
    "inputs": b'{"inputs":[' + b"{}," * 3_400_000 + b"{}]}",
    "names": b"{" + b",".join(b'"n%d":0' % number for number in range(800_000)) + b"}",
    "numbers": b'{"pixels":[' + b"0," * 5_000_000 + b"0]}",
    "escapes": b'{"image":"' + b"\\n" * 5_000_000 + b'"}',
}


@asynccontextmanager
async def longest_hold() -> AsyncIterator[Callable[[], float]]:
    """How long the event loop computed one thing, at most, in seconds of its own processor time."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            started = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - started)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.01)
    longest = 0.0
    yield lambda: longest
    watching.cancel()


def recorded_parsing(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, threading.Thread]]:
    """For each JSON text that is parsed from now on, its length, and which thread parses it."""
    parsed: list[tuple[int, threading.Thread]] = []

    def record(loads: Callable[..., Any]) -> Callable[..., Any]:
        def recording(text: bytes, *args: Any, **options: Any) -> Any:
            parsed.append((len(text), threading.current_thread()))
            return loads(text, *args, **options)

        return recording

    for module in (json, orjson):
        monkeypatch.setattr(module, "loads", record(module.loads))
    return parsed


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", MUCH)
async def test_too_much_structure_is_refused_before_it_is_parsed(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, name: str, path: str
) -> None:
    parsed = recorded_parsing(monkeypatch)

    async with longest_hold() as seconds:
        response = await client.post(path, content=MUCH[name], headers={"content-type": JSON})

    # The number of escaped characters says nothing about that of the images.
    is_batch = PATHS[path] and name != "escapes"
    assert response.status_code == (413 if is_batch else 400)
    more = " than 256 images" if is_batch else ", lists, strings or escaped characters than"
    assert f"the JSON has more values{more}" in response.text
    assert all(size < 1000 for size, _ in parsed)
    assert seconds() < 0.5  # up to 1.5 if it is parsed, 0.03 if not


async def test_a_large_body_is_parsed_by_a_thread(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = recorded_parsing(monkeypatch)
    native = json.dumps({"inputs": [{"pixels": ROWS}] * 256, "passes": 1}).encode()
    tensor = json_body(DIGIT.repeat(200, axis=0)).content
    bodies = {"/predict/mc/batch": native, "/v2/models/mnist/infer": tensor}

    for path, content in bodies.items():
        parsed.clear()
        response = await client.post(path, content=content, headers={"content-type": JSON})
        assert response.status_code == 200
        assert len(content) > 256 * 2**10
        (_, thread), *_ = parsed
        assert thread is not threading.main_thread()

    parsed.clear()
    await client.post("/predict", json={"image": IMAGE})
    assert [thread for _, thread in parsed] == [threading.main_thread()]


async def test_a_file_of_a_form_never_goes_to_the_disk(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    large = sample("7.png") + bytes(3 * MiB)

    one = await client.post("/predict", **as_form([large]))
    many = await client.post("/predict/batch", **as_form([large, large, large]))

    assert (one.status_code, many.status_code) == (200, 200), many.text
    assert one.json()["digit"] == 7
    assert [each["digit"] for each in many.json()["predictions"]] == [7, 7, 7]


@pytest.mark.parametrize("filling", [b"\r\n--b0undar", b"\r", b"\n--", b"x"])
async def test_a_form_does_not_hold_the_loop(client: httpx.AsyncClient, filling: bytes) -> None:
    content = form(part("file", filling * (4 * MiB // len(filling)), "7.png"))

    async with longest_hold() as seconds:
        response = await client.post("/predict", content=content, headers={"content-type": FORM})

    assert_error(response, 415, "not_an_image")
    assert seconds() < 0.5


async def test_inflated_bodies_are_in_memory_one_at_a_time(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, most = 0, 0

    def counting_inflate(*args: Any) -> bytes:
        nonlocal held, most
        held += 1
        most = max(most, held)
        return inflate(*args)

    def counting_parse(*args: Any) -> Any:
        nonlocal held
        try:
            return parse_request(*args)
        finally:
            held -= 1

    monkeypatch.setattr(receiving, "inflate", counting_inflate)
    monkeypatch.setattr(v2, "parse_request", counting_parse)
    bomb = gzip.compress(b'{"id": "' + bytes(9 * MiB) + b'"}')
    headers = {"content-encoding": "gzip"}

    responses = await asyncio.gather(
        *(client.post("/v2/models/mnist/infer", content=bomb, headers=headers) for _ in range(20))
    )

    assert {response.status_code for response in responses} == {400}
    assert most == 1


async def test_bodies_that_wait_to_be_parsed_hold_a_limited_memory(
    default_checkpoint: Checkpoint,
) -> None:
    application = create_app(Settings(max_body_bytes=MiB), default_checkpoint)
    content = json.dumps({"image": IMAGE + " " * (MiB - 2000)}).encode()

    async with application.router.lifespan_context(application), connect(application) as client:
        async with application.state.parsing:
            asked = [
                asyncio.create_task(
                    client.post("/predict", content=content, headers={"content-type": JSON})
                )
                for _ in range(20)
            ]
            await until(lambda: sum(one.done() for one in asked) == 12)
            small = await client.post("/predict", json={"image": IMAGE})
            tensor = await client.post(
                "/v2/models/mnist/infer",
                content=gzip.compress(json_body(DIGIT).content),
                headers={"content-encoding": "gzip"},
            )
            assert application.state.unread_body_bytes <= 8 * MiB
            refused = [one for one in asked if one.done()]
        statuses = [(await one).status_code for one in asked]

    assert (small.status_code, tensor.status_code) == (200, 200)
    assert [one.result().status_code for one in refused] == [429] * 12
    assert sorted(statuses) == [200] * 8 + [429] * 12
    assert application.state.unread_body_bytes == 0


async def test_a_body_that_came_in_one_piece_counts_while_it_waits_to_be_parsed() -> None:
    state = SimpleNamespace(
        unread_body_bytes=8182, parsing=asyncio.Lock(), settings=Settings(max_body_bytes=1024)
    )
    request: Any = SimpleNamespace(app=SimpleNamespace(state=state))
    async with receiving.large_body(request, bytes(10)):
        assert state.unread_body_bytes == 8 * 1024
    with raises_error(ErrorCode.OVERLOADED):
        async with receiving.large_body(request, bytes(11)):
            pass

    assert state.unread_body_bytes == 8182


async def test_the_memory_of_800_bodies_on_their_way_is_that_of_eight(
    default_checkpoint: Checkpoint,
) -> None:
    limit = 100_000
    application = create_app(Settings(max_body_bytes=limit), default_checkpoint)
    most = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal most
        for _ in range(10):
            yield bytes(limit // 10)
            most = max(most, application.state.unread_body_bytes)
            await asyncio.sleep(0)

    async with application.router.lifespan_context(application), connect(application) as client:
        answers = await asyncio.gather(
            *(client.post("/predict", content=body()) for _ in range(800))
        )
        after = await client.post("/predict", content=sample("7.png"))

    assert {answer.status_code for answer in answers} == {415, 429}
    assert most <= 8 * limit
    assert (after.status_code, application.state.unread_body_bytes) == (200, 0)


async def test_a_body_that_is_too_large_counts_no_more(default_checkpoint: Checkpoint) -> None:
    application = create_app(Settings(max_body_bytes=100_000), default_checkpoint)
    counted: list[int] = []

    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(30_000)
            counted.append(application.state.unread_body_bytes)

    async with application.router.lifespan_context(application), connect(application) as client:
        answer = await client.post("/predict", content=body())

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    # The rest is read off, and not kept.
    assert counted == [30_000, 60_000, 90_000, 0, 0]
    assert application.state.unread_body_bytes == 0


def test_spaces_in_base64_take_no_memory() -> None:
    text = "AAAA " * 200_000

    tracemalloc.start()
    try:
        data = decode_base64(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert data == bytes(600_000)
    assert peak < 4 * len(text)  # 14 times if each word becomes a string
