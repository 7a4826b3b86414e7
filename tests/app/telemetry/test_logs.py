"""The log: one line for each request and message, in either format."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from app.telemetry.logs import AccessLog, JsonFormatter, LogHandler, configure_logs
from app.telemetry.request_record import RequestRecord, Timings
from model.checkpoint import Checkpoint
from tests.app.telemetry.pipes import Pipe
from tests.conftest import connect, sample


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def untouched_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("root", "dropserve", "uvicorn")]
    loggers[0] = logging.getLogger()
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.level = handlers, level
    logging.getLogger().manager._clear_cache()  # type: ignore[attr-defined]


async def lines_of(checkpoint: Checkpoint, log: AccessLog, *requests: httpx.Request) -> None:
    app = create_app(Settings(), checkpoint, access_log=log)
    async with app.router.lifespan_context(app), connect(app) as client:
        for request in requests:
            await client.send(request)


def request(path: str, method: str = "POST", **options: Any) -> httpx.Request:
    return httpx.Request(method, f"http://dropserve{path}", **options)


async def test_each_request_is_one_line_of_json(default_checkpoint: Checkpoint, pipe: Pipe) -> None:
    headers = {"x-request-id": "my-own"}
    await lines_of(
        default_checkpoint,
        AccessLog(pipe.writer, "json"),
        request("/predict/mc?passes=20", content=sample("7.png"), headers=headers),
        request("/predict", content=b"no image"),
        request("/health/live", "GET"),
    )
    sampled, failed, live = map(json.loads, pipe.read().splitlines())

    assert list(sampled) == [
        *("time", "level", "message", "worker", "method", "route", "status", "code", "model"),
        *("request_id", "seconds", "decode_seconds", "queue_seconds", "compute_seconds"),
    ]
    assert (sampled["request_id"], sampled["worker"]) == ("my-own", os.getpid())
    assert (sampled["method"], sampled["route"]) == ("POST", "/predict/mc")
    assert (sampled["status"], sampled["code"], sampled["model"]) == (200, None, "mnist")
    parts = [sampled[f"{part}_seconds"] for part in ("decode", "queue", "compute")]
    assert min(parts) >= 0
    assert 0 < sum(parts) <= sampled["seconds"] + 2e-6  # each is rounded
    assert (failed["status"], failed["code"]) == (415, "not_an_image")
    assert "compute_seconds" not in failed
    assert (live["route"], live["status"]) == ("/health/live", 200)


async def test_nothing_that_was_sent_is_in_the_log(
    default_checkpoint: Checkpoint, pipe: Pipe
) -> None:
    secret = "Zm9vYmFyc2VjcmV0"
    await lines_of(
        default_checkpoint,
        AccessLog(pipe.writer, "json"),
        request(f"/{secret}?{secret}={secret}", "GET"),
        request(f"/predict?api_key={secret}", content=secret, headers={"x-api-key": secret}),
        request("/predict", json={"image": secret}),
        request("/predict", json={secret: secret}),
        request(f"/v2/models/{secret}/infer", content=secret),
        request("/predict", content=secret, headers={"x-request-id": f"{secret} "}),
        request("/predict", content=secret, headers={"authorization": f"Bearer {secret}"}),
    )
    text = pipe.read()

    assert len(text.splitlines()) == 7
    assert secret not in text


def test_a_console_line_has_the_same_content(pipe: Pipe) -> None:
    timings = Timings(decode=0.0001, compute=0.0005)
    log = AccessLog(pipe.writer, "console")
    log.write(
        RequestRecord("id-1", "POST", "/predict", 200, None, 0.0008, timings, "mnist", "0af7")
    )
    log.write(RequestRecord("id-2", "GET", "other", 404, "not_found", 0.0001, Timings()))

    first, second = (line[13:] for line in pipe.read().splitlines())

    split = "(decode 0.10, queue 0.00, compute 0.50)"
    assert first == f"INFO    POST /predict 200 mnist ok, 0.80 ms {split}, id-1, trace 0af7"
    assert second == "INFO    GET other 404 not_found, 0.10 ms, id-2"


def record_with_traceback() -> logging.LogRecord:
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        info = sys.exc_info()
    return logging.LogRecord("dropserve", logging.ERROR, "", 0, "it %s", ("failed",), info)


def test_a_traceback_stays_on_its_line_in_json_and_is_readable_otherwise(pipe: Pipe) -> None:
    record = record_with_traceback()

    line = JsonFormatter().format(record)
    message = json.loads(line)

    assert "\n" not in line
    assert (message["level"], message["message"]) == ("error", "it failed")
    assert message["exception"].endswith("ValueError: broken\nin two")
    text = LogHandler(pipe.writer, "console").format(record)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d\d\d ERROR   it failed", text.splitlines()[0])
    assert text.endswith("ValueError: broken\nin two")


def test_times_are_utc_to_the_millisecond() -> None:
    record = record_with_traceback()
    record.created = 1_700_000_000.0625

    assert json.loads(JsonFormatter().format(record))["time"] == "2023-11-14T22:13:20.062Z"


def test_the_settings_choose_what_is_logged(
    untouched_loggers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    log = configure_logs(Settings(log_format="json"))
    assert log is not None
    logging.getLogger("dropserve").info("logged")
    logging.getLogger("dropserve").debug("not logged")
    logging.getLogger("uvicorn.error").warning("uvicorn's")
    logging.getLogger("asyncio").error("others'")
    logging.getLogger().handlers[0].flush()

    messages = [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    assert messages == ["logged", "uvicorn's", "others'"]
    assert configure_logs(Settings(access_log=False)) is None
    assert configure_logs(Settings(log_level="warning")) is None
