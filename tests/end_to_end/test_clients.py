"""What people really send with curl, requests, aiohttp, fetch and tritonclient: answered or named.

Each mistake is made as its client makes it, and the answer must name the cure.
"""

import asyncio
import base64
import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from typing import Any

import aiohttp
import numpy as np
import pytest
import requests
from tritonclient.http import InferenceServerClient, InferInput

from tests.conftest import SAMPLES, RunningServer, sample

pytestmark = pytest.mark.slow

FILE = str(SAMPLES / "7.png")
PNG = sample("7.png")
BASE64 = base64.b64encode(PNG).decode()
JSON = json.dumps({"image": BASE64})
URL = "{url}"  # stands for the address in a command line
Answer = tuple[int, dict[str, Any]]


def check(answer: Answer, cure: str | None) -> None:
    """Asserts that a request got its answer, or an error that names the cure."""
    status, body = answer
    if cure is None:
        assert (status, body.get("digit")) == (200, 7), body
    else:
        assert 400 <= status < 500
        assert cure in body["error"]["message"]


# curl


def curl(*arguments: str, content: bytes = b"") -> Answer:
    command = ["curl", "--silent", "--show-error", "--write-out", "\\n%{http_code}", *arguments]
    done = subprocess.run(command, input=content, capture_output=True, timeout=30, check=True)
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body)


CURL: dict[str, tuple[list[str], str | None]] = {
    "newlines stripped": (["-d", f"@{FILE}"], "--data-binary @FILE"),
    "no @": (["--data-binary", FILE], "with @ before its name"),
    "no @ in a form": (["-F", f"file={FILE}"], "-F file=@digit.png"),
    "the file as text of a form": (["-F", f"file=<{FILE}"], "-F file=@digit.png"),
    "JSON as a form": (["-d", JSON], "Content-Type: application/json"),
    "JSON as text": (["-H", "content-type: text/plain", "-d", JSON], "application/json"),
    "an image as JSON": (
        ["-H", "content-type: application/json", "--data-binary", f"@{FILE}"],
        "Content-Type: image/png",
    ),
    "base64": (["-d", BASE64], "in base64"),
    "a form as JSON": (
        ["-H", "content-type: application/json", "-F", f"file=@{FILE}"],
        "do not set that header",
    ),
    "fields of a form": (["-d", f"image={BASE64}"], "curl: -F file=@FILE"),
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", CURL)
def test_what_curl_sends_wrongly_is_named(server: RunningServer, name: str) -> None:
    arguments, cure = CURL[name]
    check(curl(*arguments, f"{server.address}/predict"), cure)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sends_gzip_and_a_slash_too_many(server: RunningServer) -> None:
    address, stdin = f"{server.address}/predict/", ["--data-binary", "@-"]
    packed = gzip.compress(PNG)

    check(curl(*stdin, "-H", "content-encoding: gzip", address, content=packed), None)
    check(curl(*stdin, address, content=packed), "Content-Encoding: gzip")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("path", ["/", "/docs", "/health/live", "/model", "/metrics", "/v2"])
def test_head_is_answered_where_get_is(server: RunningServer, path: str) -> None:
    done = subprocess.run(
        ["curl", "--silent", "--head", server.address + path], capture_output=True, timeout=30
    )
    assert done.stdout.startswith(b"HTTP/1.1 200")


# requests


def with_requests(server: RunningServer, path: str = "/predict", **options: Any) -> Answer:
    response = requests.post(server.address + path, timeout=30, **options)
    return response.status_code, response.json()


FORM_HEADER = {"content-type": "multipart/form-data"}
REQUESTS: dict[str, tuple[dict[str, Any], str | None]] = {
    "a form without boundary": ({"files": {"file": PNG}, "headers": FORM_HEADER}, "do not set"),
    "an image as a form": ({"data": PNG, "headers": FORM_HEADER}, "Content-Type: image/png"),
    "data for json": ({"data": {"image": BASE64}}, "requests: json={...}"),
    "JSON without a type": ({"data": JSON}, "Content-Type: application/json"),
    "a file without a name": ({"files": {"file": (None, PNG)}}, "requests: files={...}"),
    "a large file without a name": (
        {"files": {"file": (None, PNG + bytes(2**21))}},
        "requests: files={...}",
    ),
    "bytes as Python prints them": ({"json": {"image": f"b'{BASE64}'"}}, ".decode()"),
    "base64 twice": (
        {"json": {"image": base64.b64encode(BASE64.encode()).decode()}},
        "in base64",
    ),
    "base64 without padding": ({"json": {"image": BASE64.rstrip("=")}}, None),
    "base64 for addresses": ({"json": {"image": base64.urlsafe_b64encode(PNG).decode()}}, None),
    "gzip": ({"data": gzip.compress(PNG), "headers": {"content-encoding": "gzip"}}, None),
    "Python's booleans": ({"data": PNG, "params": {"return_input": True}}, None),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_what_requests_sends_is_answered_or_named(server: RunningServer, name: str) -> None:
    options, cure = REQUESTS[name]
    check(with_requests(server, **options), cure)


def test_the_fields_of_a_page_may_be_blank_or_on(server: RunningServer) -> None:
    fields = {"seed": "", "coverage": "", "return_input": "on", "return_passes": "off"}
    status, answer = with_requests(server, "/predict/mc", files={"file": ("7", PNG)}, data=fields)

    assert status == 200, answer
    assert len(answer["input"]) == 28
    assert not answer.keys() & {"pass_probabilities", "prediction_set"}


# aiohttp


async def with_aiohttp(server: RunningServer, **options: Any) -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.address}/predict", **options) as response,
    ):
        return response.status, await response.json()


def nameless() -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("file", BASE64, content_type="image/png")
    return form


AIOHTTP: dict[str, tuple[Callable[[], dict[str, Any]], str | None]] = {
    "a file": (lambda: {"data": {"file": BytesIO(PNG)}}, None),
    "a stream": (lambda: {"data": BytesIO(PNG)}, None),
    "gzip": (lambda: {"data": PNG, "compress": "gzip"}, None),
    "text": (lambda: {"data": PNG.decode("latin-1")}, "read as text"),
    "JSON as text": (lambda: {"data": JSON}, "Content-Type: application/json"),
    "a field for a file": (lambda: {"data": nameless(), "headers": {}}, "no file name"),
    "fields": (lambda: {"data": {"image": BASE64}}, "x-www-form-urlencoded"),
}


@pytest.mark.parametrize("name", AIOHTTP)
def test_what_aiohttp_sends_is_answered_or_named(server: RunningServer, name: str) -> None:
    options, cure = AIOHTTP[name]

    async def ask() -> Answer:
        return await with_aiohttp(server, **options())

    check(asyncio.run(ask()), cure)


# fetch

FETCH: dict[str, tuple[str, str | None]] = {
    "a blob": ("{body: new Blob([file])}", None),
    "a form": ("{body: form(new Blob([file]))}", None),
    "a string": ("{body: file.toString('latin1')}", "a Blob or ArrayBuffer"),
    "a string of UTF-8": ("{body: file.toString()}", "a Blob or ArrayBuffer"),
    "JSON without a type": ("{body: JSON.stringify({image: base64})}", "application/json"),
    "a data URL": ("{body: 'data:image/png;base64,' + base64}", "in base64"),
    "a string in a form": ("{body: form(base64)}", "a Blob in FormData"),
    "a form of its own type": (
        "{body: form(new Blob([file])), headers: {'content-type': 'multipart/form-data'}}",
        "do not set that header",
    ),
    "fields": ("{body: new URLSearchParams({image: base64})}", "x-www-form-urlencoded"),
}
SCRIPT = """
const [address, path] = process.argv.slice(1);
const file = require('fs').readFileSync(path);
const base64 = file.toString('base64');
function form(content) { const made = new FormData(); made.append('file', content); return made; }
(async () => {
  for (const options of [%s]) {
    const response = await fetch(address + '/predict', {method: 'POST', ...options});
    console.log(JSON.stringify([response.status, await response.json()]));
  }
})();
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_what_fetch_sends_is_answered_or_named(server: RunningServer) -> None:
    script = SCRIPT % ", ".join(options for options, _ in FETCH.values())
    done = subprocess.run(
        ["node", "-e", script, server.address, FILE], capture_output=True, text=True, timeout=30
    )
    assert done.stderr == ""
    for line, (_, cure) in zip(done.stdout.splitlines(), FETCH.values(), strict=True):
        check(tuple(json.loads(line)), cure)


# tritonclient


def test_tritonclients_options_of_sequences_and_priority_change_nothing(
    server: RunningServer,
) -> None:
    image = InferInput("image", [1], "BYTES")
    image.set_data_from_numpy(np.array([PNG], dtype=np.object_))
    sequence = {"sequence_id": 7, "sequence_start": True, "sequence_end": True, "priority": 1}

    with InferenceServerClient(server.address.removeprefix("http://")) as client:
        plain = client.infer("mnist-mc", [image], parameters={"seed": 1})
        asked = client.infer(
            "mnist-mc",
            [image],
            parameters={"seed": 1, "content_type": "np"},
            request_compression_algorithm="gzip",
            **sequence,
        )

    assert plain.as_numpy("digit").tolist() == [7]
    assert plain.as_numpy("mean").tobytes() == asked.as_numpy("mean").tobytes()
