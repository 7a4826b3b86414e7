"""Bad input: each gets its status and code, in one shape, and the server keeps serving."""

import asyncio
import base64
import json
import logging
import random
import struct
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from app.api.application import create_app
from app.errors import ErrorCode
from app.schemas import McParameters
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.conftest import assert_error, connect, sample

# Stands in every body and name that can hold it; no answer may repeat it.
SECRET = "s3cr3t-7f3a"

JSON = "application/json"
BOUNDARY = "b0undary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

DIGIT = sample("7.png")
IMAGE = base64.b64encode(DIGIT).decode()
ROWS: list[list[Any]] = [[0] * 28 for _ in range(14)] + [[255] * 28 for _ in range(14)]


def encode(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def one_bit_png(side: int) -> bytes:
    """A white square of one bit a pixel: 81 megapixels fit into 10 kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def part(name: str, content: bytes, file: str | None = None) -> bytes:
    """A field of a form, or a file."""
    named = f'; filename="{file}"' if file is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def flatten(rows: list[list[Any]]) -> list[Any]:
    return [value for row in rows for value in row]


def pixels_with(value: Any, *, flat: bool = False) -> str:
    """JSON whose pixels are right but for one."""
    rows = [list(row) for row in ROWS]
    rows[20][14] = value
    return json.dumps({"pixels": flatten(rows) if flat else rows})


def pixels_spelt(text: str) -> str:
    """The same, for what `json.dumps` would not write."""
    return pixels_with(SECRET).replace(f'"{SECRET}"', text)


SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><text>{SECRET}</text></svg>'.encode()
HEIC = struct.pack(">I", 24) + b"ftypheic\0\0\0\0mif1heic" + SECRET.encode()
HTML = f"<!doctype html><html><body>{SECRET}</body></html>".encode()


@dataclass(frozen=True)
class Bad:
    """A request and what must be answered.

    Attributes:
        names: what the message must name, so that the sender knows what to do.
        param: the parameter that the answer must point at.
    """

    status: int
    code: str
    content: bytes | str = DIGIT
    content_type: str | None = None
    query: str = ""
    path: str = "/predict/mc"
    method: str = "POST"
    names: str = ""
    param: str | None = None

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(
            self.method,
            self.path + ("?" + self.query if self.query else ""),
            content=self.content,
            headers={} if self.content_type is None else {"content-type": self.content_type},
        )


def parameter(text: str, name: str, **more: Any) -> dict[str, Bad]:
    """An impossible value of a parameter, in a query and in a form."""
    bad = {"status": 422, "code": "invalid_parameter", "param": name, "names": name, **more}
    file = part("file", DIGIT, "7.png")
    return {
        f"{name}={text[:20]} in the query": Bad(query=f"{name}={text}", **bad),
        f"{name}={text[:20]} in a form": Bad(
            content=form(file, part(name, text.encode())), content_type=FORM, **bad
        ),
    }


def json_parameter(text: str, name: str, **more: Any) -> dict[str, Bad]:
    """An impossible value of a parameter in JSON, where numbers and strings differ."""
    bad = {"status": 422, "code": "invalid_parameter", "param": name, "names": name, **more}
    content = f'{{"image": "{IMAGE}", "{name}": {text}}}'
    return {
        f"{name}: {text[:20]} in JSON": Bad(content=content, content_type=JSON, **bad),
    }


def bad_pixels(content: str, **more: Any) -> Bad:
    names = more.pop("names", "send integers 0 to 255")
    return Bad(422, "invalid_pixels", content, JSON, param="pixels", names=names, **more)


BODIES: dict[str, Bad] = {
    "no body": Bad(400, "empty_body", b""),
    "no body, of a type": Bad(400, "empty_body", b"", "image/png", names="--data-binary"),
    "no body, JSON": Bad(400, "empty_body", b"", JSON),
    "an empty file in a form": Bad(400, "empty_body", form(part("file", b"", "7.png")), FORM),
    "an empty image in JSON": Bad(400, "empty_body", '{"image": ""}', JSON),
    "text": Bad(415, "unsupported_media_type", f"seven {SECRET}", "text/plain", names="image"),
    "text without a type": Bad(415, "not_an_image", f"seven {SECRET}", names="PNG"),
    "text that calls itself an image": Bad(415, "not_an_image", SECRET, "image/png"),
    "HTML": Bad(415, "unsupported_media_type", HTML, "text/html; charset=utf-8"),
    "HTML without a type": Bad(415, "not_an_image", HTML),
    "an image that calls itself text": Bad(415, "unsupported_media_type", DIGIT, "text/plain"),
    "a PDF": Bad(415, "unsupported_media_type", f"%PDF-1.7 {SECRET}", "application/pdf"),
    "XML": Bad(415, "unsupported_media_type", SVG, "application/xml"),
    "a type that is none": Bad(415, "unsupported_media_type", DIGIT, f"{SECRET};/=;"),
    "half a PNG": Bad(400, "truncated_image", DIGIT[: len(DIGIT) // 2], names="whole file"),
    "half a PNG in JSON": Bad(
        400, "truncated_image", f'{{"image": "{base64.b64encode(DIGIT[:300]).decode()}"}}', JSON
    ),
    "half a PNG in a form": Bad(400, "truncated_image", form(part("file", DIGIT[:300], "a")), FORM),
    "81 megapixels": Bad(413, "too_many_pixels", one_bit_png(9000), "image/png", names="scale"),
    "20 MB": Bad(413, "body_too_large", bytes(20 * 2**20), names="smaller"),
    "20 MB of JSON": Bad(413, "body_too_large", b'{"image": "' + b"A" * 20 * 2**20, JSON),
    "SVG by type": Bad(415, "unsupported_media_type", SVG, "image/svg+xml", names="SVG"),
    "SVG by content": Bad(415, "unsupported_media_type", SVG, "image/png", names="SVG"),
    "SVG without a type": Bad(415, "unsupported_media_type", SVG, names="PNG"),
    "HEIC by type": Bad(415, "unsupported_media_type", HEIC, "image/heic", names="HEIC"),
    "HEIC by content": Bad(415, "unsupported_media_type", HEIC, "image/jpeg", names="JPEG"),
    "HEIC without a type": Bad(415, "unsupported_media_type", HEIC, names="HEIC"),
    "a white page": Bad(422, "no_ink", encode(Image.new("L", (140, 140), 255)), names="no ink"),
    "a grey page": Bad(422, "no_ink", encode(Image.new("RGB", (28, 28), (90, 90, 90)))),
    "140x140 with none": Bad(422, "invalid_pixels", query="preprocess=none", names="28x28"),
    "28x27 with none": Bad(
        422,
        "invalid_pixels",
        encode(Image.new("L", (28, 27), 9)),
        query="preprocess=none",
        names="28x27",
    ),
}

JSON_BODIES: dict[str, Bad] = {
    "no JSON": Bad(400, "invalid_json", SECRET, JSON),
    "half JSON": Bad(400, "invalid_json", f'{{"image": "{SECRET}', JSON),
    "JSON and more": Bad(400, "invalid_json", f'{{"image": "{IMAGE}"}} {SECRET}', JSON),
    "no UTF-8": Bad(400, "invalid_json", b'{"image": "\xff\xfe\xff"}', JSON),
    "a PNG as JSON": Bad(400, "invalid_json", DIGIT, JSON),
    "nested 100,000 deep": Bad(400, "invalid_json", "[" * 100_000 + "]" * 100_000, JSON),
    "objects nested 100,000 deep": Bad(400, "invalid_json", '{"image":' * 100_000, JSON),
    "pixels nested 100,000 deep": Bad(
        400, "invalid_json", '{"pixels": ' + "[" * 100_000 + "]" * 100_000 + "}", JSON
    ),
    "NaN": Bad(400, "invalid_json", f'{{"image": "{IMAGE}", "passes": NaN}}', JSON),
    "-Infinity": Bad(400, "invalid_json", f'{{"image": "{IMAGE}", "seed": -Infinity}}', JSON),
    "a number of 5,000 digits": Bad(
        400, "invalid_json", f'{{"image": "{IMAGE}", "seed": {"1" * 5000}}}', JSON
    ),
    "an array": Bad(422, "invalid_parameter", f'["{SECRET}"]', JSON, names="object"),
    "a string": Bad(422, "invalid_parameter", f'"{SECRET}"', JSON, names="object"),
    "null": Bad(422, "invalid_parameter", "null", JSON, names="object"),
    "nothing in it": Bad(422, "invalid_parameter", "{}", JSON, names="image", param="image"),
    "neither image nor pixels": Bad(
        422, "invalid_parameter", '{"passes": 5}', JSON, names="pixels", param="image"
    ),
    "image and pixels": Bad(
        400, "conflicting_parameters", json.dumps({"image": IMAGE, "pixels": ROWS}), JSON
    ),
    "no base64": Bad(
        422, "invalid_parameter", f'{{"image": "!{SECRET}!"}}', JSON, names="base64", param="image"
    ),
    "base64 cut off": Bad(
        422, "invalid_parameter", f'{{"image": "{IMAGE[:-1]}"}}', JSON, names="base64"
    ),
    "letters beyond ASCII": Bad(422, "invalid_parameter", '{"image": "\u00fc\\ud800"}', JSON),
    "a number as image": Bad(422, "invalid_parameter", '{"image": 7}', JSON, param="image"),
    "an object as image": Bad(422, "invalid_parameter", '{"image": {}}', JSON, param="image"),
    "base64 of text": Bad(
        415, "not_an_image", json.dumps({"image": base64.b64encode(SECRET.encode()).decode()}), JSON
    ),
    "a name twice with two values": Bad(
        400, "conflicting_parameters", f'{{"image": "{IMAGE}", "seed": 1, "seed": 2}}', JSON
    ),
    "a misspelt field": Bad(
        422,
        "unknown_parameter",
        f'{{"image": "{IMAGE}", "pases": "{SECRET}"}}',
        JSON,
        names="passes",
        param="passes",
    ),
    "a field of megabytes": Bad(
        422, "unknown_parameter", f'{{"image": "{IMAGE}", "passe{SECRET * 500_000}": 1}}', JSON
    ),
    "a field of no letters": Bad(
        422, "unknown_parameter", f'{{"image": "{IMAGE}", "\\ud800\\u0000": 1}}', JSON
    ),
}

PIXELS: dict[str, Bad] = {
    "27 rows": bad_pixels(json.dumps({"pixels": ROWS[:27]}), names="28 rows of 28"),
    "rows of 27": bad_pixels(json.dumps({"pixels": [row[:27] for row in ROWS]})),
    "rows of 27 and 29": bad_pixels(
        json.dumps({"pixels": [ROWS[0][:27], [0] * 29, *ROWS[2:]]}), names="28 rows of 28"
    ),
    "783 pixels": bad_pixels(json.dumps({"pixels": flatten(ROWS)[:783]})),
    "no pixels": bad_pixels('{"pixels": []}'),
    "28 numbers": bad_pixels(json.dumps({"pixels": [255] * 28})),
    "a string of pixels": bad_pixels(json.dumps({"pixels": SECRET})),
    "null pixels": bad_pixels('{"pixels": null}'),
    "values in 0..1": bad_pixels(json.dumps({"pixels": [[v / 255 for v in row] for row in ROWS]})),
    "integers in 0..1": bad_pixels(
        json.dumps({"pixels": [[v // 255 for v in row] for row in ROWS]}), names="scaled"
    ),
    "nothing but 0": bad_pixels(json.dumps({"pixels": [[0] * 28] * 28})),
    "a float": bad_pixels(pixels_with(127.5)),
    "a whole float": bad_pixels(pixels_with(128.0)),
    "a negative pixel": bad_pixels(pixels_with(-1)),
    "256": bad_pixels(pixels_with(256)),
    "256 in a flat list": bad_pixels(pixels_with(256, flat=True)),
    "10**30": bad_pixels(pixels_with(10**30)),
    "1e999": bad_pixels(pixels_spelt("1e999")),
    '"0.5"': bad_pixels(pixels_with("0.5")),
    "a string": bad_pixels(pixels_with(SECRET)),
    "true": bad_pixels(pixels_with(True)),
    "a null": bad_pixels(pixels_with(None)),
    "a list": bad_pixels(pixels_with([1], flat=True)),
    "NaN": Bad(400, "invalid_json", pixels_spelt("NaN"), JSON),
    "Infinity": Bad(400, "invalid_json", pixels_spelt("Infinity"), JSON),
    "all 255": Bad(422, "no_ink", json.dumps({"pixels": [[255] * 28] * 28}), JSON),
}

PARAMETERS: dict[str, Bad] = {
    **parameter("0", "passes", names="1 to 1000"),
    **parameter("-1", "passes"),
    **parameter("1001", "passes", names="1 to 1000"),
    **parameter("1000000000", "passes", names="1 to 1000"),
    **parameter("9" * 5000, "passes"),
    **parameter("many", "passes"),
    **parameter("1.5", "passes"),
    **parameter("50.0", "passes"),
    **parameter("5e1", "passes"),
    **parameter("1e999", "passes"),
    **parameter("NaN", "passes"),
    **parameter("true", "passes"),
    **parameter("", "passes"),
    **parameter("0x10", "passes"),
    **parameter("1_0", "passes"),
    **parameter(str(2**53), "seed", names="2^53 - 1"),
    **parameter("-1", "seed"),
    **parameter("0.5", "seed"),
    **parameter("false", "seed"),
    **parameter(SECRET, "seed"),
    **parameter(SECRET, "preprocess", names="auto or none"),
    **parameter("AUTO", "preprocess"),
    **parameter("even", "estimator", names="independent or balanced"),
    **parameter("0", "max_standard_error", names="above 0"),
    **parameter("1e999", "max_standard_error"),
    **parameter("NaN", "max_standard_error"),
    **parameter("1", "return_passes", names="true or false"),
    **parameter("0", "timeout_ms", names="1 to 30000"),
    **parameter("30001", "timeout_ms", names="1 to 30000"),
    **parameter("1", "return_input", names="true or false"),
    **parameter("yes", "return_input"),
    **parameter("True", "return_input"),
    **json_parameter("0", "passes", names="1 to 1000"),
    **json_parameter("-1", "passes"),
    **json_parameter("1000000000", "passes"),
    **json_parameter('"many"', "passes"),
    **json_parameter('"50"', "passes"),
    **json_parameter("1.5", "passes"),
    **json_parameter("50.0", "passes"),
    **json_parameter("true", "passes"),
    **json_parameter("null", "passes"),
    **json_parameter("[50]", "passes"),
    **json_parameter("{}", "passes"),
    **json_parameter("1e999", "passes"),
    **json_parameter('"0.5"', "passes"),
    **json_parameter(str(2**53), "seed"),
    **json_parameter(str(10**30), "seed"),
    **json_parameter("-1", "seed"),
    **json_parameter('"1"', "seed"),
    **json_parameter("1e999", "seed"),
    **json_parameter(f'"{SECRET}"', "preprocess"),
    **json_parameter("1", "return_input"),
    **json_parameter('"true"', "return_input"),
    "deep nesting as a value": Bad(
        422,
        "invalid_parameter",
        f'{{"image": "{IMAGE}", "seed": {"[" * 300 + "]" * 300}}}',
        JSON,
        param="seed",
    ),
}

NAMES: dict[str, Bad] = {
    "pases": Bad(422, "unknown_parameter", query="pases=5", names="passes", param="passes"),
    "Seed": Bad(422, "unknown_parameter", query="Seed=5", names="seed", param="seed"),
    "RETURN_INPUT": Bad(422, "unknown_parameter", query="RETURN_INPUT=1", names="return_input"),
    "preproces": Bad(422, "unknown_parameter", query="preproces=none", names="preprocess"),
    "a secret": Bad(422, "unknown_parameter", query=f"{SECRET}={SECRET}", names="known"),
    "no name": Bad(422, "unknown_parameter", query="=5"),
    "a NUL": Bad(422, "unknown_parameter", query="%00=5"),
    "no UTF-8": Bad(422, "unknown_parameter", query="%ff=5"),
    "no value": Bad(422, "invalid_parameter", query="passes", param="passes"),
    "200 names": Bad(
        422, "unknown_parameter", query="&".join(f"{SECRET}{number}=1" for number in range(200))
    ),
    "a field of a form": Bad(
        422,
        "unknown_parameter",
        form(part("file", DIGIT, "7.png"), part("sed", SECRET.encode())),
        FORM,
        names="seed",
        param="seed",
    ),
    "passes without dropout": Bad(
        422, "unknown_parameter", query="passes=5", path="/predict", names="/predict/mc"
    ),
    "seed without dropout": Bad(
        422, "unknown_parameter", query="seed=5", path="/predict", names="/predict/mc", param="seed"
    ),
    "pases without dropout": Bad(
        422, "unknown_parameter", query="pases=5", path="/predict", names="passes, of /predict/mc"
    ),
    "preproces without dropout": Bad(
        422, "unknown_parameter", query="preproces=none", path="/predict", names="is preprocess"
    ),
    "seed in JSON without dropout": Bad(
        422,
        "unknown_parameter",
        f'{{"image": "{IMAGE}", "seed": 5}}',
        JSON,
        path="/predict",
        names="/predict/mc",
    ),
    "twice in the query": Bad(
        400, "conflicting_parameters", query="seed=1&seed=2", names="seed", param="seed"
    ),
    "1 and 1.0 in the query": Bad(400, "conflicting_parameters", query="seed=1&seed=1.0"),
    "1 and true in the query": Bad(400, "conflicting_parameters", query="seed=1&seed=true"),
    "in the query and in JSON": Bad(
        400,
        "conflicting_parameters",
        f'{{"image": "{IMAGE}", "passes": 5}}',
        JSON,
        query="passes=6",
        names="passes",
        param="passes",
    ),
    "in the query and in a form": Bad(
        400,
        "conflicting_parameters",
        form(part("file", DIGIT, "7.png"), part("preprocess", b"auto")),
        FORM,
        query="preprocess=none",
    ),
    "twice in a form": Bad(
        400,
        "conflicting_parameters",
        form(part("seed", b"1"), part("file", DIGIT, "7.png"), part("seed", b"2")),
        FORM,
    ),
}

FORMS: dict[str, Bad] = {
    "no file": Bad(
        400, "invalid_multipart", form(part("passes", b"5")), FORM, names="-F file=@", param="file"
    ),
    "text where the file should be": Bad(
        400, "invalid_multipart", form(part("file", DIGIT)), FORM, names="-F file=@"
    ),
    "two files": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "1.png"), part("file", DIGIT, "2.png")),
        FORM,
        names="one file",
    ),
    "nine files": Bad(400, "invalid_multipart", form(*[part("file", DIGIT, "7.png")] * 9), FORM),
    "a file in an odd field": Bad(
        400, "invalid_multipart", form(part(SECRET, DIGIT, "7.png")), FORM, names="named file"
    ),
    "a file without a field": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png")).replace(b' name="file";', b""),
        FORM,
    ),
    "another boundary": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png")),
        f"multipart/form-data; boundary={SECRET}",
    ),
    "no boundary": Bad(
        400, "invalid_multipart", form(part("file", DIGIT, "7.png")), "multipart/form-data"
    ),
    "an empty boundary": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png")),
        "multipart/form-data;boundary=",
    ),
    "no form at all": Bad(400, "invalid_multipart", DIGIT, FORM),
    "no body": Bad(400, "invalid_multipart", b"", FORM),
    "cut off within the file": Bad(400, "invalid_multipart", part("file", DIGIT, "7")[:300], FORM),
    "cut off after 2 MB": Bad(400, "invalid_multipart", part("file", bytes(2**21), "7"), FORM),
    "2 MB in a field": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png"), part("seed", b"1" * 2**21)),
        FORM,
    ),
    "200 fields": Bad(
        400,
        "invalid_multipart",
        form(part("file", DIGIT, "7.png"), *[part("seed", b"1")] * 200),
        FORM,
    ),
    "an unknown charset": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        f"multipart/form-data; boundary={BOUNDARY}; charset={SECRET}",
    ),
    "a charset that is no charset": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        f"multipart/form-data; boundary={BOUNDARY}; charset=zlib",
    ),
    "a charset that fits nothing": Bad(
        400,
        "invalid_multipart",
        form(part("passes", b"5")),
        f"multipart/form-data; boundary={BOUNDARY}; charset=undefined",
    ),
}

BATCHES: dict[str, Bad] = {
    "no inputs": Bad(
        422, "invalid_parameter", "{}", JSON, path="/predict/batch", names="inputs", param="inputs"
    ),
    "257 images": Bad(
        413,
        "too_many_images",
        json.dumps({"inputs": [{"image": IMAGE}] * 257}),
        JSON,
        path="/predict/mc/batch",
        names="256",
    ),
    "one image as it is": Bad(
        415, "unsupported_media_type", DIGIT, "image/png", path="/predict/batch", names="/predict"
    ),
    "a misspelt parameter": Bad(
        422,
        "unknown_parameter",
        json.dumps({"inputs": [{"image": IMAGE}], "pases": 5}),
        JSON,
        path="/predict/mc/batch",
        names="passes",
        param="passes",
    ),
}

METHODS = ("GET", "PATCH", "DELETE", "OPTIONS")
ROUTES: dict[str, Bad] = {
    "an unknown route": Bad(404, "not_found", path=f"/{SECRET}", names="/docs"),
    "a route with a slash too many": Bad(404, "not_found", path="/predict/"),
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

TABLE: dict[str, Bad] = {
    f"{group}: {name}": bad
    for group, cases in {
        "body": BODIES,
        "JSON": JSON_BODIES,
        "pixels": PIXELS,
        "parameter": PARAMETERS,
        "name": NAMES,
        "form": FORMS,
        "batch": BATCHES,
        "route": ROUTES,
    }.items()
    for name, bad in cases.items()
}


@pytest.mark.parametrize("case", TABLE)
async def test_bad_input_gets_its_status_and_code_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    bad = TABLE[case]

    response = await bad.send(client)

    error = assert_error(response, bad.status, bad.code)
    assert SECRET not in response.text
    assert bad.names in error["message"]
    assert bad.param in (None, error["param"])
    if bad.status == 405:
        assert response.headers["allow"]
    after = await client.post("/predict", content=DIGIT)
    assert (after.status_code, after.json()["digit"]) == (200, 7)


def test_the_table_has_every_code_that_a_request_can_cause() -> None:
    codes = {(bad.status, bad.code) for bad in TABLE.values()}

    # What takes a defect, load, keys, a browser or a connection of one's own has tests of its own.
    others = {"internal", "not_ready", "overloaded", "deadline_exceeded", "unauthorized"}
    others |= {"invalid_http", "request_timeout", "head_too_large", "invalid_request"}
    assert codes == {(each.status, each.text) for each in ErrorCode if each.text not in others}


def test_81_megapixels_fit_into_ten_kilobytes() -> None:
    assert len(cast(bytes, TABLE["body: 81 megapixels"].content)) < 10_000


async def test_bad_requests_at_once_do_not_touch_the_good_ones(client: httpx.AsyncClient) -> None:
    good = [
        ("/predict", await client.post("/predict", content=DIGIT)),
        ("/predict/mc?seed=1", await client.post("/predict/mc?seed=1", content=DIGIT)),
    ]

    async def ask(path: str, expected: httpx.Response) -> None:
        response = await client.post(path, content=DIGIT)
        assert response.content == expected.content

    async def fail(bad: Bad) -> None:
        assert_error(await bad.send(client), bad.status, bad.code)

    small = [bad for bad in TABLE.values() if len(bad.content) < 2**20]
    await asyncio.gather(*(fail(bad) for bad in small), *(ask(*one) for one in good * 50))


# What looks bad and is answered


ACCEPTED: dict[str, bytes] = {
    "animated GIF": encode(
        Image.open(BytesIO(DIGIT)),
        "GIF",
        save_all=True,
        append_images=[Image.open(BytesIO(sample("1.png")))],
    ),
    "CMYK JPEG": encode(Image.open(BytesIO(DIGIT)).convert("CMYK"), "JPEG", quality=95),
    "16-bit PNG": encode(
        Image.fromarray(np.asarray(Image.open(BytesIO(DIGIT))).astype(np.uint16) * 257)
    ),
    "PNG with a comment after its end": DIGIT + b"comment",
    "white on black": encode(Image.eval(Image.open(BytesIO(DIGIT)), lambda value: 255 - value)),
    "photo of 12 megapixels": encode(
        Image.open(BytesIO(DIGIT)).resize((4000, 3000)).convert("RGB"), "JPEG", quality=90
    ),
}


@pytest.mark.parametrize("kind", ACCEPTED)
async def test_unusual_pictures_are_answered(client: httpx.AsyncClient, kind: str) -> None:
    for path in ("/predict", "/predict/mc?seed=1"):
        response = await client.post(path, content=ACCEPTED[kind])

        assert (response.status_code, response.json()["digit"]) == (200, 7)


@pytest.mark.parametrize(
    ("query", "content", "content_type"),
    [
        ("seed=9&seed=9", DIGIT, None),
        ("seed=9", f'{{"image": "{IMAGE}", "seed": 9}}', JSON),
        ("seed=9", form(part("seed", b"9"), part("file", DIGIT, "a.png")), FORM),
        ("seed=9&", DIGIT, None),
        ("%73eed=%39", DIGIT, None),
        ("&".join(["seed=9"] * 200), DIGIT, None),
    ],
)
async def test_the_same_value_twice_is_no_conflict(
    client: httpx.AsyncClient, query: str, content: bytes | str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}

    response = await client.post(f"/predict/mc?{query}", content=content, headers=headers)

    assert response.status_code == 200, response.text
    assert response.json()["seed"] == 9


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
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

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


async def test_a_misspelt_name_of_megabytes_takes_no_time(client: httpx.AsyncClient) -> None:
    started = time.perf_counter()
    await TABLE["JSON: a field of megabytes"].send(client)

    # Comparing all of it with the known names takes half a minute.
    assert time.perf_counter() - started < 5


# A defect of the server


async def fail(image: Any, parameters: Any) -> Any:
    """Stands for a defect of the predictor that nobody foresaw."""
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
