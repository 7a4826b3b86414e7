"""Every form of body that is read, of one image and of many, and how much of it."""

import asyncio
import base64
import gzip
import json
import logging
import zlib
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from app.api.application import create_app
from app.settings import Settings
from model.arrays import Pixels
from model.checkpoint import Checkpoint
from tests.app.api.bad_requests import DIGIT
from tests.app.api.request_bodies import (
    BATCH_FORMS,
    as_form,
    as_json,
    base64_of,
    batch_as_form,
    batch_as_json,
    encode,
    network_input,
)
from tests.conftest import assert_error, connect, sample

# Forms that are read


ROUTES = ["/predict", "/predict/mc?seed=1"]


def in_lines(text: str) -> str:
    """As the command `base64` prints it."""
    return "\n".join(text[start : start + 76] for start in range(0, len(text), 76)) + "\n"


def raw(content_type: str | None) -> Callable[[Pixels], dict[str, Any]]:
    headers = {} if content_type is None else {"content-type": content_type}
    return lambda pixels: {"content": encode(pixels, "PNG"), "headers": headers}


GOOD_BODIES: dict[str, Callable[[Pixels], dict[str, Any]]] = {
    "raw": raw(None),
    "raw, image/png": raw("image/png"),
    "raw, IMAGE/PNG with a parameter": raw("IMAGE/PNG; charset=binary"),
    "raw, another image type than the bytes": raw("image/jpeg"),
    "raw, as a browser sends a file of unknown type": raw("application/octet-stream"),
    "raw, as curl --data-binary sends it": raw("application/x-www-form-urlencoded"),
    "multipart file": lambda p: {"files": {"file": ("7.png", encode(p, "PNG"), "image/png")}},
    "multipart image": lambda p: {"files": {"image": ("7.png", encode(p, "PNG"))}},
    "multipart data, typed text": lambda p: {
        "files": {"data": ("7.png", encode(p, "PNG"), "text/plain")}
    },
    "JSON image": lambda p: as_json(image=base64_of(encode(p, "PNG"))),
    "JSON image, lines": lambda p: as_json(image=in_lines(base64_of(encode(p, "PNG")))),
    "JSON image, data URL": lambda p: as_json(
        image="data:image/png;base64," + base64_of(encode(p, "PNG"))
    ),
    "JSON image, with a charset": lambda p: {
        "content": json.dumps({"image": base64_of(encode(p, "PNG"))}),
        "headers": {"content-type": "Application/JSON; charset=utf-8"},
    },
    "JSON, with a byte order mark": lambda p: {
        "content": BOM_UTF8 + json.dumps({"pixels": p.tolist()}).encode(),
        "headers": {"content-type": "application/json"},
    },
    "gzip": lambda p: {
        "content": gzip.compress(encode(p, "PNG")),
        "headers": {"content-encoding": "gzip"},
    },
    "JSON, deflated": lambda p: {
        "content": zlib.compress(json.dumps({"pixels": p.tolist()}).encode()),
        "headers": {"content-encoding": "deflate", "content-type": "application/json"},
    },
    "JSON image, without padding, as in addresses": lambda p: as_json(
        image=base64.urlsafe_b64encode(encode(p, "PNG")).decode().rstrip("=")
    ),
    "JSON pixels, rows": lambda p: as_json(pixels=p.tolist()),
    "JSON pixels, flat": lambda p: as_json(pixels=p.ravel().tolist()),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("form", GOOD_BODIES)
async def test_every_form_of_body_gives_the_same_answer(
    client: httpx.AsyncClient, form: str, path: str
) -> None:
    pixels = network_input(sample("7.png"))
    expected = await client.post(path, content=encode(pixels, "PNG"))

    response = await client.post(path, **GOOD_BODIES[form](pixels))

    assert expected.json()["digit"] == 7
    assert (response.status_code, response.content) == (200, expected.content)


PARAMETERS: dict[str, Any] = {
    "preprocess": "none",
    "return_input": True,
    "passes": 7,
    "seed": 123_456_789_012,
}
QUERY = "preprocess=none&return_input=true&passes=7&seed=123456789012"


def with_parameters(form: str, picture: bytes) -> tuple[str, dict[str, Any]]:
    """Where and how to ask for `PARAMETERS` in one of the forms."""
    file = {"file": ("3.png", picture)}
    texts = dict(pair.split("=") for pair in QUERY.split("&"))
    match form:
        case "query":
            return f"/predict/mc?{QUERY}", {"content": picture}
        case "JSON":
            return "/predict/mc", as_json(image=base64_of(picture), **PARAMETERS)
        case "form":
            return "/predict/mc", {"files": file, "data": texts}
        case "query, for JSON":
            return f"/predict/mc?{QUERY}", as_json(image=base64_of(picture))
        case "query, for a form":
            return f"/predict/mc?{QUERY}", {"files": file}
        case "twice the same":
            path = f"/predict/mc?{QUERY}&{QUERY}"
            return path, as_json(image=base64_of(picture), **PARAMETERS)
        case _:
            raise AssertionError(form)


@pytest.mark.parametrize(
    "form", ["query", "JSON", "form", "query, for JSON", "query, for a form", "twice the same"]
)
async def test_parameters_mean_the_same_wherever_they_stand(
    client: httpx.AsyncClient, form: str
) -> None:
    # Off its centre, so that `none` gives another answer than `auto`.
    pixels = np.roll(network_input(sample("3.png")), 3, axis=1)
    path, body = with_parameters(form, encode(pixels, "PNG"))

    response = await client.post(path, **body)

    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["passes"], answer["seed"]) == (7, 123_456_789_012)
    assert answer["input"] == pixels.tolist()
    reference = await client.post(f"/predict/mc?{QUERY}", content=encode(pixels, "PNG"))
    assert response.content == reference.content


@pytest.mark.parametrize("form", BATCH_FORMS)
async def test_parameters_may_stand_next_to_the_images(
    client: httpx.AsyncClient, form: str
) -> None:
    query = await client.post(
        "/predict/mc/batch?seed=3&passes=7", **BATCH_FORMS[form]([sample("doubtful.png")])
    )
    next_to_them = await client.post(
        "/predict/mc/batch", **BATCH_FORMS[form]([sample("doubtful.png")], seed=3, passes=7)
    )

    assert query.json()["predictions"][0]["passes"] == 7
    assert next_to_them.content == query.content


@pytest.mark.parametrize("digits", [60, 309, 500])
async def test_a_number_may_have_as_many_digits_as_a_float_can(
    client: httpx.AsyncClient, digits: int
) -> None:
    path = f"/predict/mc?passes=33&max_standard_error={'1' * digits}"
    response = await client.post(path, content=sample("7.png"))

    if digits == 500:
        assert_error(response, 422, "invalid_parameter")
    else:
        assert response.json()["stop_reason"] == "standard_error"


# Batches of which something is refused


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
    "an unknown parameter": (batch_as_json([b""], pases=3), 422, "unknown_parameter"),
    "an unknown field": (batch_as_form([b""], pases=3), 422, "unknown_parameter"),
    "an impossible parameter": (batch_as_json([b""], timeout_ms=0), 422, "invalid_parameter"),
    "a form without files": (
        as_form([], seed=3),
        400,
        "invalid_multipart",
    ),
    "a file in another field": (as_form([b"x"], "image"), 400, "invalid_multipart"),
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
    "too many as JSON": (batch_as_json([b""] * 257), 413, "too_many_images"),
    "too many as a form": (batch_as_form([b"x"] * 257), 413, "too_many_images"),
}


@pytest.mark.parametrize("path", ["/predict/batch", "/predict/mc/batch"])
@pytest.mark.parametrize("name", BAD_BATCHES)
async def test_what_is_wrong_with_the_whole_batch_is_one_error(
    client: httpx.AsyncClient, name: str, path: str
) -> None:
    request, status, code = BAD_BATCHES[name]

    assert_error(await client.post(path, **request), status, code)


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


# Large bodies


async def chunks(count: int, size: int = 2**20) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield bytes(size)


@pytest.mark.parametrize("megabytes", [11, 20, 40])
async def test_a_large_body_of_unknown_length_is_too_large(
    client: httpx.AsyncClient, megabytes: int
) -> None:
    response = await client.post("/predict", content=chunks(megabytes))

    assert_error_of_stream(response, 413, "body_too_large")


def assert_error_of_stream(response: httpx.Response, status: int, code: str) -> None:
    """As `assert_error`, for a request whose body is gone."""
    response.request = httpx.Request("POST", response.request.url)
    assert_error(response, status, code)


async def call(app: FastAPI, headers: list[tuple[bytes, bytes]], *messages: Any) -> tuple[int, str]:
    """What the application answers to ASGI messages that no client would send."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    incoming = list(messages)
    sent: list[Any] = []

    async def receive() -> Any:
        if incoming:
            return incoming.pop(0)
        if messages and not messages[-1]["more_body"]:  # the client waits for its answer
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        return 0, ""
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body).get("error", {}).get("code", "")


def body_message(content: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": content, "more_body": more}


async def test_one_chunk_can_be_too_large(app: FastAPI) -> None:
    answer = await call(app, [], body_message(bytes(11 * 2**20)))

    assert answer == (413, "body_too_large")


async def test_a_declared_length_is_refused_before_it_is_sent(app: FastAPI) -> None:
    headers = [(b"content-length", b"99999999999"), (b"expect", b"100-continue")]

    # To wait for the body would end in a disconnect, and in no answer.
    assert await call(app, headers) == (413, "body_too_large")


@pytest.mark.parametrize("length", [b"\xb2", b"-1", b"many", b"1.5", b"", b"0"])
async def test_a_length_without_sense_is_ignored(app: FastAPI, length: bytes) -> None:
    assert await call(app, [(b"content-length", length)], body_message(DIGIT)) == (200, "")


async def test_a_client_that_goes_away_gets_no_answer_and_no_traceback(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert await call(app, [], body_message(DIGIT[:100], more=True)) == (0, "")

    assert caplog.text == ""


async def test_the_limits_are_settings(default_checkpoint: Checkpoint) -> None:
    settings = Settings(max_body_bytes=2000, max_pixels=784, max_passes=7)
    app = create_app(settings, default_checkpoint)
    small = encode(Image.open(BytesIO(DIGIT)).resize((28, 28)))
    async with app.router.lifespan_context(app), connect(app) as client:
        fits = await client.post("/predict/mc?passes=7", content=small.ljust(2000, b"\0"))
        bytes_over = await client.post("/predict", content=small.ljust(2001, b"\0"))
        pixels_over = await client.post("/predict", content=DIGIT)
        passes_over = await client.post("/predict/mc?passes=8", content=small)

    assert (fits.status_code, fits.json()["passes"]) == (200, 7)
    assert "2,000 bytes" in assert_error(bytes_over, 413, "body_too_large")["message"]
    assert "784" in assert_error(pixels_over, 413, "too_many_pixels")["message"]
    assert "1 to 7" in assert_error(passes_over, 422, "invalid_parameter")["message"]


async def test_bodies_on_their_way_hold_a_limited_memory(default_checkpoint: Checkpoint) -> None:
    application = create_app(Settings(max_body_bytes=4096), default_checkpoint)
    may_end, held = asyncio.Event(), asyncio.Semaphore(0)

    async def slow_body() -> AsyncIterator[bytes]:
        yield bytes(4000)
        held.release()  # the next piece is asked for
        await may_end.wait()
        yield bytes(50)

    async with application.router.lifespan_context(application), connect(application) as client:

        def ask() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post("/predict", content=slow_body()))

        slow = [ask() for _ in range(8)]
        for _ in slow:
            await held.acquire()
        refused = await ask()
        may_end.set()
        ended = [await one for one in (*slow, ask())]

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert refused.headers["retry-after"] == "1"
    assert [one.status_code for one in ended] == [415] * 9
    assert application.state.unread_body_bytes == 0
