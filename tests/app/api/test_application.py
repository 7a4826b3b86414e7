"""The application as a whole: whatever is sent, nothing is a defect, and a defect says nothing."""

import asyncio
import base64
import json
import logging
import random
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.errors import ErrorCode
from app.schemas import McParameters
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.api.bad_requests import (
    DIGIT,
    HEIC,
    ROWS,
    SECRET,
    SVG,
    Bad,
    assert_refused,
    pixels_spelt,
)
from tests.app.api.conversation import serving
from tests.app.api.request_bodies import FORM, JSON, form, part
from tests.app.api.test_predictions import ACCEPTED
from tests.app.api.test_refused_bodies import TABLE as BODIES
from tests.app.inference.test_parameters import TABLE as PARAMETERS
from tests.conftest import assert_error, connect

METHODS = ("GET", "PATCH", "DELETE", "OPTIONS")
ROUTES: dict[str, Bad] = {
    "an unknown route": Bad(404, "not_found", path=f"/{SECRET}", names="/docs"),
    "a route with two slashes too many": Bad(404, "not_found", path="/predict//"),
    "a route in capitals": Bad(404, "not_found", path="/PREDICT"),
    "an unknown file": Bad(404, "not_found", path="/static/nothing.js", method="GET"),
    "a file outside": Bad(404, "not_found", path="/static/%2e%2e/settings.py", method="GET"),
    "a file with a NUL": Bad(404, "not_found", path="/static/%00", method="GET"),
    "a folder": Bad(404, "not_found", path="/static/swagger-ui", method="GET"),
    **{f"{m} /predict/mc": Bad(405, "method_not_allowed", method=m) for m in METHODS},
    "POST to the docs": Bad(405, "method_not_allowed", path="/docs", names="Allow"),
    "POST to a file": Bad(405, "method_not_allowed", path="/static/docs.js", names="Allow"),
    "POST to the health": Bad(405, "method_not_allowed", path="/health/ready"),
    "curl -T": Bad(
        405, "method_not_allowed", path="/predict", method="PUT", names="--data-binary @"
    ),
    "curl -T to mc": Bad(405, "method_not_allowed", method="PUT", names="--data-binary @"),
}


TABLE: dict[str, Bad] = {f"route: {name}": bad for name, bad in ROUTES.items()}
EVERY_TABLE = {**BODIES, **PARAMETERS, **TABLE}


@pytest.mark.parametrize("case", TABLE)
async def test_bad_input_gets_its_status_and_code_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


def test_the_table_has_every_code_that_a_request_can_cause() -> None:
    codes = {(bad.status, bad.code) for bad in EVERY_TABLE.values()}

    # What takes a defect, load, keys, tokens, a browser or a connection has tests of its own.
    others = {"internal", "not_ready", "overloaded", "deadline_exceeded", "unauthorized"}
    others |= {"invalid_http", "request_timeout", "head_too_large", "invalid_request"}
    others |= {"invalid_token", "expired_token", "used_token"}
    assert codes == {(each.status, each.text) for each in ErrorCode if each.text not in others}


async def test_bad_requests_at_once_do_not_touch_the_good_ones(
    default_checkpoint: Checkpoint,
) -> None:
    # On a busy machine the last of them wait for more than a second.
    async with serving(default_checkpoint, max_wait_ms=60_000) as app, connect(app) as client:
        good = [
            ("/predict", await client.post("/predict", content=DIGIT)),
            ("/predict/mc?seed=1", await client.post("/predict/mc?seed=1", content=DIGIT)),
        ]

        async def ask(path: str, expected: httpx.Response) -> None:
            response = await client.post(path, content=DIGIT)
            assert response.content == expected.content

        async def fail(bad: Bad) -> None:
            assert_error(await bad.send(client), bad.status, bad.code)

        small = [bad for bad in EVERY_TABLE.values() if len(bad.content) < 2**20]
        await asyncio.gather(*(fail(bad) for bad in small), *(ask(*one) for one in good * 50))


async def test_a_server_is_ready_only_while_it_runs(
    app: FastAPI, default_checkpoint: Checkpoint
) -> None:
    other = create_app(Settings(), default_checkpoint)
    async with connect(other) as client:
        before = await client.get("/health/ready")
        async with other.router.lifespan_context(other):
            during = await client.get("/health/ready")
            live = await client.get("/health/live")
        after = await client.get("/health/ready")

    assert [one.status_code for one in (before, during, after)] == [503, 200, 503]
    assert before.json()["error"]["code"] == "not_ready"
    assert int(before.headers["retry-after"]) >= 1
    assert (during.json(), live.json()) == ({"status": "ready"}, {"status": "live"})


# A defect of the server


async def fail(image: Any, parameters: Any) -> Any:
    """Stands for an unforeseen defect of the predictor."""
    raise RuntimeError(f"/etc/{SECRET} line 42")


async def test_a_defect_is_answered_without_its_internals_and_logged(
    default_checkpoint: Checkpoint,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(Settings(), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        with monkeypatch.context() as patched:
            patched.setattr(app.state.models.predictor, "predict", fail)
            broken = await client.post("/predict", content=DIGIT, headers={"x-request-id": "id-1"})
        repaired = await client.post("/predict", content=DIGIT)

    error = assert_error(broken, 500, "internal")
    assert error["request_id"] == "id-1"
    for internal in (SECRET, "RuntimeError", "Traceback", "line 42"):
        assert internal not in broken.text
    assert repaired.status_code == 200
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "id-1" in record.getMessage()
    assert record.exc_info is not None
    assert SECRET in str(record.exc_info[1])


# Anything at all


class Fuzzer:
    """Requests at random, from a seed: most are nearly right, since those reach deepest."""

    _PATHS = (
        *["/predict", "/predict/mc"] * 8,
        *("/predict/mc/stream", "/predict/batch", "/predict/mc/batch"),
        *("/health/ready", "/model", "/docs", "/"),
    )
    _METHODS = (*["POST"] * 30, "GET", "PUT", "HEAD", "OPTIONS", "DELETE")
    _TYPES = (
        None,
        JSON,
        JSON,
        JSON,
        FORM,
        FORM,
        FORM,
        "multipart/form-data",
        "image/png",
        "image/svg+xml",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain",
        f"{FORM}; charset=utf-16",
        "application/json; charset=latin-1",
    )
    # Without the deadline, which may pass.
    _NAMES = (
        *(name for name in McParameters.model_fields if name != "timeout_ms"),
        *("image", "pixels", "file", "pases", "inputs"),
    )
    _TEXTS = (
        *("1", "0", "-1", "50", "true", "false", "null", "auto", "none", "", "1e999", "NaN"),
        *("[]", "{}", '"0.5"', str(2**53), "1e400", "%00", "%ff", "\\ud800", "[[[[", "a" * 300),
    )

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pictures = [DIGIT, *ACCEPTED.values(), SVG, HEIC, b""]
        self._pictures = [picture for picture in self._pictures if len(picture) < 10_000]

    def request(self) -> dict[str, Any]:
        r = self._random
        path = r.choice(self._PATHS) if r.random() < 0.95 else "/" + self._text()
        content_type = r.choice(self._TYPES)
        if content_type is not None and content_type.startswith(JSON):
            content = self._json().encode("utf-8", "surrogatepass")
        elif content_type is not None and content_type.startswith("multipart"):
            content = self._form()
        else:
            content = r.choice(self._pictures)
        if r.random() < 0.4:
            content = self._damage(content)
        headers = {} if content_type is None else {"content-type": content_type}
        return {
            "method": r.choice(self._METHODS),
            "url": path.replace("\0", "") + self._query(),
            "content": content,
            "headers": headers,
        }

    def _text(self) -> str:
        return self._random.choice(self._TEXTS)

    def _query(self) -> str:
        r = self._random
        pairs = [f"{r.choice(self._NAMES)}={self._text()}" for _ in range(r.choice((0, 0, 1, 2)))]
        return "?" + "&".join(pairs) if pairs else ""

    def _json(self) -> str:
        r = self._random
        image = json.dumps(base64.b64encode(r.choice(self._pictures)).decode())
        rows = json.dumps({"pixels": ROWS}) if r.random() < 0.3 else pixels_spelt(self._text())
        first = r.choice((f'"image": {image}', rows[1:-1]))
        fields = [f'"{r.choice(self._NAMES)}": {self._text()}' for _ in range(r.choice((0, 1, 2)))]
        return "{" + ", ".join([first, *fields]) + "}"

    def _form(self) -> bytes:
        r = self._random
        fields = [
            part(r.choice(self._NAMES), self._text().encode()) for _ in range(r.choice((0, 1)))
        ]
        files = [
            part(r.choice(("file", "file", "image", "odd")), r.choice(self._pictures), "a.png")
        ]
        return form(*fields, *files * r.choice((1, 1, 1, 2)))

    def _damage(self, content: bytes) -> bytes:
        r = self._random
        mutant = bytearray(content)
        for _ in range(r.choice((1, 2, 8))):
            at = r.randrange(len(mutant) + 1)
            match r.randrange(4):
                case 0:
                    del mutant[at:]
                case 1:
                    mutant[at : at + 1] = r.randbytes(1)
                case 2:
                    del mutant[at : at + r.randrange(20)]
                case 3:
                    mutant[at:at] = r.choice((r.randbytes(5), b"\r\n", b"--", b'"', b"[[", b"\0"))
        return bytes(mutant)


async def test_whatever_is_sent_nothing_is_a_defect(client: httpx.AsyncClient) -> None:
    fuzzer = Fuzzer(seed=0)
    statuses = set()
    for number in range(1500):
        request = fuzzer.request()
        response = await client.request(**request)
        statuses.add(response.status_code)
        assert response.status_code < 500, (number, request)
        assert response.headers["x-request-id"]
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/json", (number, request)
            if request["method"] != "HEAD":
                assert_error(response, response.status_code, response.json()["error"]["code"])
    # Shallow requests would prove little.
    assert statuses >= {200, 400, 404, 405, 415, 422}
