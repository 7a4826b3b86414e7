"""The Python client: against the real application, and against servers that fail on purpose."""

import base64
import inspect
import json
import pickle
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import torch
from fastapi import FastAPI
from PIL import Image

from app.api.application import create_app
from app.client import (
    AsyncDropserveClient,
    BusyError,
    ConnectionFailedError,
    DeadlineExceededError,
    Decision,
    DropserveClient,
    DropserveError,
    ImageError,
    McOptions,
    McPrediction,
    Prediction,
    PredictOptions,
    RequestError,
    RetryPolicy,
    ServerFailedError,
    TimedOutError,
    UnexpectedAnswerError,
)
from app.client.results import parse_prediction, split_batch
from app.client.retries import Steps, exchange
from app.errors import ErrorCode
from app.schemas import McParameters, PredictParameters
from app.schemas import McPrediction as McSchema
from app.schemas import Prediction as PredictionSchema
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter, sample

PICTURE = sample("7.png")
SMALL = Image.open(BytesIO(PICTURE)).convert("L").resize((28, 28))
PIXELS = np.array(SMALL)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asking(app: FastAPI) -> AsyncIterator[AsyncDropserveClient]:
    async with client_of(app) as connected:
        yield connected


def client_of(app: FastAPI, **options: Any) -> AsyncDropserveClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return AsyncDropserveClient("http://dropserve", transport=transport, **options)


# Images


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


SMALL_PICTURE = encoded(SMALL)
IMAGES: dict[str, Callable[[], Any]] = {
    "bytearray": lambda: bytearray(SMALL_PICTURE),
    "memoryview": lambda: memoryview(SMALL_PICTURE),
    "file": lambda: BytesIO(SMALL_PICTURE),
    "PIL": lambda: SMALL,
    "array": lambda: PIXELS,
    "array of int64": lambda: PIXELS.astype(np.int64),
    "flat array": lambda: PIXELS.reshape(784),
    "array with a channel": lambda: PIXELS[:, :, None],
    "array with a channel in front": lambda: PIXELS[None],
    "array not in rows": lambda: np.asfortranarray(PIXELS),
    "array in colour": lambda: np.stack([PIXELS] * 3, axis=2),
    "tensor": lambda: torch.from_numpy(PIXELS.copy()),
}


@pytest.mark.parametrize("kind", IMAGES)
async def test_every_kind_of_image_gets_the_answer_of_its_bytes(
    asking: AsyncDropserveClient, kind: str
) -> None:
    for preprocess in ("auto", "none"):
        options: Any = {"seed": 1, "preprocess": preprocess}
        expected = await asking.predict_mc(SMALL_PICTURE, **options)
        assert await asking.predict_mc(IMAGES[kind](), **options) == expected


async def test_a_path_gets_the_answer_of_its_file(asking: AsyncDropserveClient) -> None:
    expected = await asking.predict(PICTURE)

    assert await asking.predict(SAMPLES / "7.png") == expected
    assert await asking.predict(str(SAMPLES / "7.png")) == expected


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"]
)
async def test_a_pil_image_of_any_mode_is_understood(
    asking: AsyncDropserveClient, mode: str
) -> None:
    image = Image.open(BytesIO(PICTURE)).resize((56, 56))
    if mode in ("LAB", "HSV"):
        image = image.convert("RGB")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.merge("LAB", [image.convert("L"), *[Image.new("L", (56, 56), 128)] * 2])
    else:
        image = image.convert(mode)
    assert image.mode == mode

    assert (await asking.predict(image)).digit == 7


async def test_a_photo_turned_by_exif_is_the_same_as_its_file(
    asking: AsyncDropserveClient,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.open(BytesIO(PICTURE)).transpose(Image.Transpose.ROTATE_90)
    photo = encoded(turned, exif=exif)

    by_bytes = await asking.predict(photo)

    assert by_bytes.digit == 7
    assert await asking.predict(Image.open(BytesIO(photo))) == by_bytes


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (PIXELS / 255, "float64"),
        (PIXELS > 127, "bool"),
        (PIXELS.astype(np.int64) - 255, "exceed"),
        (PIXELS.astype(np.int64) * 2, "exceed"),
        ((PIXELS > 127).astype(np.uint8), "scaled"),
        (np.stack([PIXELS] * 5), "predict_batch"),
        (PIXELS[0], "shape"),
        (np.zeros((0, 28), dtype=np.uint8), "shape"),
    ],
)
async def test_an_array_that_could_mean_two_things_is_refused_before_it_is_sent(
    asking: AsyncDropserveClient, array: Any, words: str
) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        await asking.predict(array)

    assert (caught.value.code, caught.value.status) == ("invalid_array", None)


async def test_a_file_that_cannot_be_read_is_an_image_error(
    asking: AsyncDropserveClient, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match="No such file") as caught:
        await asking.predict(tmp_path / "none.png")

    assert caught.value.code == "unreadable_file"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("wrong", [None, 7, [PIXELS], open])
async def test_what_is_no_image_is_a_type_error(
    asking: AsyncDropserveClient, wrong: Any, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match="an image is"):
        await asking.predict(wrong)
    with (SAMPLES / "7.png").open("r", errors="replace") as text, pytest.raises(TypeError):
        await asking.predict(text)  # type: ignore[arg-type]


# Answers


@pytest.mark.parametrize("route", ["/predict", "/predict/mc"])
async def test_an_answer_has_every_field_as_the_server_sent_it(
    asking: AsyncDropserveClient, client: httpx.AsyncClient, route: str
) -> None:
    mirrored: Prediction
    if route == "/predict":
        query = "return_input=true"
        mirrored = await asking.predict(PICTURE, return_input=True)
    else:
        query = "return_input=true&return_passes=true&seed=3&passes=4"
        mirrored = await asking.predict_mc(
            PICTURE, return_input=True, return_passes=True, seed=3, passes=4
        )
    response = await client.post(f"{route}?{query}", content=PICTURE)

    assert mirrored.raw == response.text
    assert mirrored.extra == {}
    for name, value in response.json().items():
        assert as_json(getattr(mirrored, name)) == value, name


def as_json(value: Any) -> Any:
    if isinstance(value, Decision):  # an answer has boxes only where there are several digits
        value = {name: each for name, each in vars(value).items() if name != "boxes" or each}
    plain = value if isinstance(value, dict | int | float | str | tuple | None) else vars(value)
    return json.loads(json.dumps(plain))


def test_the_client_knows_every_field_and_parameter_of_the_api() -> None:
    assert {one.name for one in fields(PredictionSchema)} <= {
        one.name for one in fields(Prediction)
    }
    assert {one.name for one in fields(McSchema)} <= {one.name for one in fields(McPrediction)}
    assert PredictParameters.model_fields.keys() <= PredictOptions.__annotations__.keys()
    assert McParameters.model_fields.keys() <= {
        *PredictOptions.__annotations__,
        *McOptions.__annotations__,
    }


ANSWER: dict[str, Any] = {
    "digit": 4,
    "label": "4",
    "confidence": 0.5,
    "probabilities": [0.5, 0.5],
    "predictive_entropy": 0.7,
    "decision": None,
    "model": {"name": "mnist", "version": "0", "colour": "blue"},
}


def test_fields_of_a_newer_server_are_kept() -> None:
    decision = {
        "outcome": "abstain",
        "reason": "several_digits",
        "score": 0.7,
        "threshold": 0.4,
        "boxes": [[0, 1, 9, 20], [11, 1, 20, 20]],
        "mood": "sad",
    }
    answer = {**ANSWER, "decision": decision, "weather": ["rain"], "prediction_set": [4, 9]}

    parsed = parse_prediction(answer, "the text", Prediction)

    assert parsed.extra == {"weather": ["rain"]}
    boxes = ((0, 1, 9, 20), (11, 1, 20, 20))
    assert parsed.decision == Decision("abstain", "several_digits", 0.7, 0.4, boxes)
    assert parsed.decision.abstains
    assert parsed.prediction_set == (4, 9)
    assert parsed.raw == "the text"


def test_answers_are_frozen_inside_too() -> None:
    parsed = parse_prediction(ANSWER, "", Prediction)

    with pytest.raises(AttributeError):
        parsed.digit = 3  # type: ignore[misc]
    assert isinstance(parsed.probabilities, tuple)


def test_a_batch_is_cut_where_its_elements_end() -> None:
    parts = ['{"a": [1e-7, {"b": "]},"}]}', '{"c":2.679777e-5}', "{}"]
    text = '{"x":[0], "predictions" : [' + " ,\n".join(parts) + ' ],"y":1}'

    assert [part for _, part in split_batch(text)] == parts
    assert list(split_batch('{"predictions":[]}')) == []
    for broken in ("{}", '{"predictions":[1]}', '{"predictions":[{}', '{"predictions":['):
        with pytest.raises(ValueError, match=r"predictions|prediction is|Expecting"):
            list(split_batch(broken))


# Batches


async def test_a_batch_has_the_single_answers_and_errors_in_order(
    asking: AsyncDropserveClient, tmp_path: Path
) -> None:
    names = ["7.png", "doubtful.png", "3.png"]
    single = [await asking.predict_mc(SAMPLES / name, seed=5) for name in names]
    images: list[Any] = [SAMPLES / name for name in names]
    images[1:1] = [b"no image", tmp_path / "none.png"]

    found = await asking.predict_mc_batch(images, seed=5)

    assert [one for one in found if isinstance(one, McPrediction)] == single
    assert [one.raw for one in found if isinstance(one, McPrediction)] == [
        one.raw for one in single
    ]
    no_image, none = found[1:3]
    assert isinstance(no_image, ImageError)
    assert isinstance(none, ImageError)
    assert (no_image.code, none.code) == ("not_an_image", "unreadable_file")
    with pytest.raises(ImageError) as alone:
        await asking.predict_mc(b"no image")
    assert alone.value.message == no_image.message
    assert await asking.predict_batch([SAMPLES / names[0]]) == [
        await asking.predict(SAMPLES / names[0])
    ]
    assert await asking.predict_batch([b"no image"] * 2) != []
    assert await asking.predict_batch([]) == []


@pytest.mark.parametrize("limits", [{}, {"max_batch_images": 3}, {"max_body_bytes": 2000}], ids=str)
async def test_a_batch_of_any_size_is_split_as_the_server_needs(
    one_thread: None, default_checkpoint: Checkpoint, limits: dict[str, Any]
) -> None:
    app = create_app(Settings(**limits), default_checkpoint)
    images = [sample(f"{number % 10}.png") for number in range(150)]
    async with app.router.lifespan_context(app), client_of(app) as asking:
        found = await asking.predict_batch(iter(images))

    assert [one.digit for one in found if isinstance(one, Prediction)] == [*range(10)] * 15


async def test_an_image_too_large_for_the_server_is_an_error_in_its_place(
    one_thread: None, default_checkpoint: Checkpoint
) -> None:
    app = create_app(Settings(max_body_bytes=2000), default_checkpoint)
    async with app.router.lifespan_context(app), client_of(app) as asking:
        good, bad, other = await asking.predict_batch([PICTURE, bytes(5000), PICTURE])

    assert good == other
    assert isinstance(bad, ImageError)
    assert bad.code == "body_too_large"


async def test_many_passes_go_in_smaller_requests() -> None:
    sizes: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(len(json.loads(request.content)["inputs"]))
        return httpx.Response(200, json={"predictions": [MC_ANSWER] * sizes[-1]})

    asking = AsyncDropserveClient(transport=httpx.MockTransport(answer))
    await asking.predict_mc_batch([PICTURE] * 128)
    assert sizes == [64, 64]
    sizes.clear()
    await asking.predict_mc_batch([PICTURE] * 16, passes=1000)
    assert sizes == [8, 8]


MC_ANSWER: dict[str, Any] = {
    **ANSWER,
    "mean": [0.5, 0.5],
    "variance": None,
    "standard_error": None,
    "expected_entropy": 0.6,
    "mutual_information": 0.1,
    "votes": [1, 0],
    "passes": 1,
    "stop_reason": "passes",
    "seed": 1,
    "estimator": "independent",
}


@pytest.mark.parametrize("one", ["7.png", b"bytes", Path("7.png")])
async def test_a_single_image_is_no_batch(asking: AsyncDropserveClient, one: Any) -> None:
    with pytest.raises(TypeError, match="list of images"):
        await asking.predict_batch(one)


async def test_too_few_answers_to_a_batch_are_noticed() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"predictions": [ANSWER]})

    asking = AsyncDropserveClient(transport=httpx.MockTransport(answer))
    with pytest.raises(UnexpectedAnswerError, match="1 answers to 2 images"):
        await asking.predict_batch([PICTURE, PICTURE])


# Streams


async def test_a_stream_ends_with_the_plain_answer(asking: AsyncDropserveClient) -> None:
    plain = await asking.predict_mc(SAMPLES / "doubtful.png", passes=100, seed=2)

    answers = [
        one async for one in asking.predict_mc_stream(SAMPLES / "doubtful.png", passes=100, seed=2)
    ]

    assert len(answers) > 3
    assert [one.is_final for one in answers] == [False] * (len(answers) - 1) + [True]
    assert answers[-1] == plain
    assert answers[-1].raw == plain.raw
    assert [one.passes for one in answers] == sorted(one.passes for one in answers)


async def test_a_stream_that_is_refused_raises_before_the_first_answer(
    asking: AsyncDropserveClient,
) -> None:
    with pytest.raises(ImageError) as caught:
        await anext(aiter(asking.predict_mc_stream(b"no image")))

    assert caught.value.code == "not_an_image"


def event(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


def stream_of(*parts: bytes) -> DropserveClient:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=iter(parts)))
    return DropserveClient(transport=transport)


def test_events_are_found_however_they_are_cut() -> None:
    estimate = event("estimate", {**MC_ANSWER, "stop_reason": None})
    whole = b": a comment\n\n" + estimate + event("later", {}) + event("result", MC_ANSWER)
    bytewise = [whole[index : index + 1] for index in range(len(whole))]

    for parts in ([whole], bytewise):
        answers = list(stream_of(*parts).predict_mc_stream(PICTURE))
        assert [one.is_final for one in answers] == [False, True]


def test_an_error_in_a_stream_is_raised() -> None:
    error = {"code": "deadline_exceeded", "message": "late", "param": None, "request_id": "r"}
    stream = stream_of(event("estimate", MC_ANSWER), event("error", {"error": error}))

    answers = stream.predict_mc_stream(PICTURE)
    next(answers)
    with pytest.raises(DropserveError, match="late") as caught:
        next(answers)

    assert (caught.value.code, caught.value.request_id) == ("deadline_exceeded", "r")


def test_a_stream_without_its_result_has_failed() -> None:
    answers = stream_of(event("estimate", MC_ANSWER)).predict_mc_stream(PICTURE)
    next(answers)

    with pytest.raises(ConnectionFailedError, match="before its result"):
        next(answers)


# Errors


ERROR_TYPES = {
    400: RequestError,
    401: RequestError,
    404: RequestError,
    405: RequestError,
    408: RequestError,
    413: RequestError,
    422: RequestError,
    429: BusyError,
    431: RequestError,
    500: ServerFailedError,
    503: BusyError,
    504: DeadlineExceededError,
}
ABOUT_THE_IMAGE = {
    "empty_body",
    "truncated_image",
    "body_too_large",
    "too_many_pixels",
    "unsupported_media_type",
    "not_an_image",
    "invalid_pixels",
    "no_ink",
}


@pytest.mark.parametrize(("status", "code"), sorted((code.status, code.text) for code in ErrorCode))
def test_every_error_of_the_api_is_raised_with_all_it_says(status: int, code: str) -> None:
    detail = {"code": code, "message": "do this", "param": "seed", "request_id": "abc"}
    transport = httpx.MockTransport(
        lambda _: httpx.Response(status, json={"error": detail}, headers={"retry-after": "7"})
    )
    expected = ImageError if code in ABOUT_THE_IMAGE else ERROR_TYPES[status]

    with pytest.raises(DropserveError) as caught:
        DropserveClient(transport=transport, retries=RetryPolicy(0)).predict(PICTURE)

    error = caught.value
    assert type(error) is expected
    assert str(error) == "do this"
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert type(one) is expected
        assert (one.code, one.message, one.param) == (code, "do this", "seed")
        assert (one.request_id, one.status, one.retry_after) == ("abc", status, 7.0)


async def test_the_real_application_names_the_parameter_and_the_request(
    asking: AsyncDropserveClient, app: FastAPI
) -> None:
    with pytest.raises(RequestError) as caught:
        await asking.predict_mc(PICTURE, pases=3)  # type: ignore[call-arg]
    assert (caught.value.code, caught.value.param) == ("unknown_parameter", "passes")

    async with client_of(app, headers={"x-request-id": "mine"}) as named:
        with pytest.raises(RequestError) as caught:
            await named.predict_mc(PICTURE, passes=0)
    assert (caught.value.request_id, caught.value.status) == ("mine", 422)


async def test_none_is_the_servers_default(asking: AsyncDropserveClient) -> None:
    answer = await asking.predict_mc(PICTURE, passes=None, seed=4, estimator=None)

    assert answer == await asking.predict_mc(PICTURE, seed=4)


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[1]),
        httpx.Response(200, json={"digit": 3}),
        httpx.Response(200, json={**ANSWER, "model": None}),
        httpx.Response(404, json={"detail": "Not Found"}),
        httpx.Response(400, json={"error": "a V2 error"}),
        httpx.Response(502, text="<html>"),
        httpx.Response(301, headers={"location": "https://elsewhere"}),
    ],
    ids=lambda response: f"{response.status_code} {response.text[:12]}",
)
def test_an_answer_that_is_not_dropserves_says_so(response: httpx.Response) -> None:
    transport = httpx.MockTransport(lambda _: response)

    with pytest.raises(UnexpectedAnswerError, match="Dropserve server") as caught:
        DropserveClient(transport=transport).predict(PICTURE)

    assert caught.value.status == response.status_code


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://host", "http://", "/x"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape("such as http://127.0.0.1:8000")):
        DropserveClient(url)


# Retries


REQUEST = httpx.Request("POST", "http://dropserve/predict")
OK = httpx.Response(200, request=REQUEST)
BUSY = {"code": "overloaded", "message": "busy", "param": None, "request_id": "r"}


def busy(status: int = 429, retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return httpx.Response(status, json={"error": BUSY}, headers=headers, request=REQUEST)


def play(steps: Steps[httpx.Response], *outcomes: Any) -> tuple[list[float], httpx.Response]:
    """The seconds waited, and what came out, when the requests have these outcomes."""
    waited: list[float] = []
    following = iter(outcomes)
    outcome = None
    try:
        while True:
            step = steps.send(outcome)
            if isinstance(step, float):
                waited.append(step)
                outcome = None
            else:
                assert step is REQUEST
                outcome = next(following)
    except StopIteration as end:
        return waited, end.value


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    steps = exchange(REQUEST, RetryPolicy())

    assert play(steps, busy(429, "2"), busy(503, "2"), OK) == ([2.0, 2.0], OK)


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)

    (seconds,), _ = play(exchange(REQUEST, RetryPolicy()), busy(429, date), OK)

    assert 8 <= seconds <= 10


def test_without_a_time_the_waits_grow() -> None:
    waited, _ = play(exchange(REQUEST, RetryPolicy(5)), *[busy()] * 5, OK)

    for number, seconds in enumerate(waited):
        assert 0.1 * 2**number <= seconds <= 0.2 * 2**number


def test_retries_end() -> None:
    with pytest.raises(BusyError, match="busy"):
        play(exchange(REQUEST, RetryPolicy(2)), *[busy()] * 3)


def test_nobody_waits_longer_than_the_policy_allows() -> None:
    policy = RetryPolicy(retries=10, max_wait_seconds=30)
    with pytest.raises(BusyError) as caught:
        play(exchange(REQUEST, policy), busy(429, "31"))
    assert caught.value.retry_after == 31
    with pytest.raises(BusyError):
        play(exchange(REQUEST, policy), *[busy(429, "20")] * 2)


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError,
                httpx.RemoteProtocolError]
)  # fmt: skip
def test_a_connection_that_failed_is_tried_again(failure: type[httpx.TransportError]) -> None:
    error = failure("no", request=REQUEST)

    waited, response = play(exchange(REQUEST, RetryPolicy()), error, OK)

    assert (len(waited), response) == (1, OK)
    with pytest.raises(ConnectionFailedError, match="http://dropserve"):
        play(exchange(REQUEST, RetryPolicy(1)), error, error)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (httpx.ReadTimeout("slow", request=REQUEST), TimedOutError),
        (httpx.Response(500, json={"error": BUSY}, request=REQUEST), ServerFailedError),
        (httpx.Response(504, json={"error": BUSY}, request=REQUEST), DeadlineExceededError),
        (httpx.Response(422, json={"error": BUSY}, request=REQUEST), RequestError),
    ],
)
def test_what_would_fail_again_is_not_repeated(
    outcome: Any, expected: type[DropserveError]
) -> None:
    with pytest.raises(expected):
        play(exchange(REQUEST, RetryPolicy()), outcome)


@pytest.mark.parametrize("is_async", [False, True])
async def test_both_clients_repeat_a_request(is_async: bool) -> None:
    responses = iter([busy(429, "0"), busy(503), httpx.Response(200, json=ANSWER)])
    transport = httpx.MockTransport(lambda _: next(responses))

    if is_async:
        answer = await AsyncDropserveClient(transport=transport).predict(PICTURE)
    else:
        answer = DropserveClient(transport=transport).predict(PICTURE)

    assert answer.digit == 4


# The synchronous client, a real server, the module


@pytest.fixture(scope="module")
def server(servers: ServerStarter) -> RunningServer:
    return servers.start()


@pytest.mark.slow
async def test_the_synchronous_client_answers_as_the_other_over_one_connection(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    create_connection = socket.create_connection

    def counted(*arguments: Any, **options: Any) -> socket.socket:
        opened.append(arguments)
        return create_connection(*arguments, **options)

    monkeypatch.setattr(socket, "create_connection", counted)
    images: list[Any] = [SAMPLES / "7.png", b"no image", SAMPLES / "doubtful.png"]

    with DropserveClient(server.address) as client:
        predicted = client.predict(images[0])
        sampled = client.predict_mc(images[2], seed=1)
        batch = client.predict_batch(images)
        sampled_batch = client.predict_mc_batch(images, seed=1)
        streamed = list(client.predict_mc_stream(images[2], seed=1))
        card = client.model()
    assert len(opened) == 1

    async with AsyncDropserveClient(server.address) as asking:
        assert await asking.predict(images[0]) == predicted == batch[0]
        assert await asking.predict_mc(images[2], seed=1) == sampled == sampled_batch[2]
        found = [one async for one in asking.predict_mc_stream(images[2], seed=1)]
        assert found == streamed
        assert await asking.model() == card
    assert streamed[-1] == sampled
    assert card["version"] == sampled.model.version
    assert isinstance(batch[1], ImageError)
    assert isinstance(sampled_batch[1], ImageError)


@pytest.mark.slow
def test_leaving_a_stream_early_gives_its_connection_back(server: RunningServer) -> None:
    with DropserveClient(server.address) as client:
        for answer in client.predict_mc_stream(PICTURE, passes=1000):
            assert not answer.is_final
            break
        assert client.predict(PICTURE).digit == 7


def test_no_server_is_a_connection_error_that_names_the_address() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = DropserveClient(address, retries=RetryPolicy(1))

        with client, pytest.raises(ConnectionFailedError, match=address) as caught:
            client.predict(PICTURE)

    assert (caught.value.code, caught.value.status) == ("connection_failed", None)


def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with DropserveClient(address, timeout=0.1) as client, pytest.raises(TimedOutError):
            client.predict(PICTURE)


async def test_a_closed_client_asks_nothing_more() -> None:
    client = DropserveClient()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.predict(PICTURE)
    asking = AsyncDropserveClient()
    await asking.close()
    with pytest.raises(RuntimeError, match="closed"):
        await asking.predict(PICTURE)


def public(kind: type) -> Iterator[tuple[str, list[str]]]:
    for name, method in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") or name == "__init__":
            yield name, list(inspect.signature(method).parameters)


def test_both_clients_have_the_same_methods() -> None:
    assert dict(public(DropserveClient)) == dict(public(AsyncDropserveClient))


def test_importing_the_client_imports_nothing_of_the_server() -> None:
    picture = base64.b64encode(PICTURE).decode()
    script = (
        "import base64, sys, httpx\n"
        "from app.client import AsyncDropserveClient, DropserveClient, DropserveError\n"
        "transport = httpx.MockTransport(lambda request: httpx.Response(500))\n"
        "with DropserveClient(transport=transport) as client:\n"
        "    try:\n"
        f"        client.predict(base64.b64decode('{picture}'))\n"
        "    except DropserveError:\n"
        "        pass\n"
        "heavy = ('torch', 'fastapi', 'starlette', 'numpy', 'PIL', 'model.network')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "[]\n"
