"""Malformed V2 requests: each gets its status in V2's error shape, and the server keeps serving."""

import base64
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.api.examples import example_pixels
from tests.app.open_inference.inference_requests import (
    HEADER_LENGTH,
    InferBody,
    binary_body,
    files_body,
    infer,
    json_body,
    length_prefixed,
    read_outputs,
)
from tests.conftest import sample
from tests.load.v2_mutations import mutated_requests

# Stands in names and values; no answer may repeat it.
SECRET = "s3cr3t-7f3a"
DIGIT = example_pixels()[None]
VALUES = DIGIT.ravel().tolist()
PNG = sample("7.png")
MiB = 2**20


@dataclass(frozen=True)
class Bad:
    """A request and what must be answered.

    Attributes:
        content: of the body.
        status: which must be answered.
        names: what the message must name.
        headers: besides none.
        path: of which model.
    """

    content: bytes
    status: int = 400
    names: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v2/models/mnist-mc/infer"
    method: str = "POST"

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        return await client.request(
            self.method, self.path, content=self.content, headers=self.headers
        )


def spoil(body: InferBody, change: Callable[[dict[str, Any]], Any], **more: Any) -> Bad:
    """A good body whose document was changed."""
    changed = change(body.document)
    if isinstance(changed, dict) and changed is not body.document:
        body.document = changed
    return Bad(body.content, headers={**body.all_headers, **more.pop("headers", {})}, **more)


def in_input(body: InferBody, **more: Any) -> Bad:
    """A good body, and fields of its input replaced; None takes one away."""
    names = more.pop("names", "")
    status = more.pop("status", 400)

    def change(document: dict[str, Any]) -> None:
        tensor = document["inputs"][0]
        tensor.update(more)
        for name in [name for name, value in tensor.items() if value is None]:
            del tensor[name]

    return spoil(body, change, names=names, status=status)


def in_body(body: InferBody, **more: Any) -> Bad:
    """The same for the fields of the whole."""
    names = more.pop("names", "")
    return spoil(body, lambda document: document.update(more), names=names)


def json_text(text: str) -> Bad:
    """A body whose data is the text, for what `json.dumps` would not write."""
    content = json_body(DIGIT).content.decode()
    return Bad(content.replace(json.dumps(VALUES), text).encode())


def value(text: str, datatype: str = "UINT8") -> Bad:
    """One value is what the text says."""
    bad = json_text(json.dumps([*VALUES[:-1], SECRET]).replace(f'"{SECRET}"', text))
    return Bad(bad.content.replace(b'"UINT8"', f'"{datatype}"'.encode()), names=datatype)


def with_length(length: str | None, *, body: InferBody | None = None) -> Bad:
    body = body or binary_body(DIGIT)
    headers = {} if length is None else {HEADER_LENGTH: length}
    return Bad(body.content, headers=headers, names="Inference-Header-Content-Length")


def with_raw(body: InferBody, raw: bytes, *, size: int | None = None, names: str = "") -> Bad:
    """Other raw data behind the JSON, with its own size declared, or another."""
    body.document["inputs"][0]["parameters"] = {
        "binary_data_size": len(raw) if size is None else size
    }
    body.raw = raw
    return Bad(body.content, headers=body.all_headers, names=names)


def compressed(content: bytes, encoding: str, *, status: int = 400, names: str = "") -> Bad:
    headers = {"content-encoding": encoding}
    return Bad(content, headers=headers, status=status, names=names)


def floats(values: Any) -> InferBody:
    return json_body(np.asarray(values, dtype=np.float32).reshape(1, 784))


GOOD_JSON = json_body(DIGIT).content
BOMB = gzip.compress(bytes(64 * MiB))
REPEATED = json_body(np.repeat(DIGIT, 257, axis=0))

JSON_ITSELF = {
    "empty": Bad(b"", names="JSON"),
    "not JSON": Bad(SECRET.encode(), names="JSON"),
    "cut off": Bad(GOOD_JSON[:-20], names="JSON"),
    "two documents": Bad(GOOD_JSON * 2, names="JSON"),
    "an image": Bad(PNG, names="JSON"),
    "not UTF-8": Bad(b'{"id": "\xff\xfe"}', names="JSON"),
    "a list": Bad(b"[]", names="object"),
    "a number": Bad(b"7", names="object"),
    "null": Bad(b"null", names="object"),
    "nested without end": Bad(b'{"inputs": ' + b"[" * 100_000, names="JSON"),
    "an unknown field": in_body(json_body(DIGIT), **{SECRET: 1}, names="inputs"),
    "id is a number": in_body(json_body(DIGIT), id=7, names="id"),
    "id is null": in_body(json_body(DIGIT), id=None, names="id"),
}
INPUTS = {
    "no inputs": Bad(b"{}", names="inputs"),
    "inputs is empty": in_body(json_body(DIGIT), inputs=[], names="inputs"),
    "inputs is an object": in_body(json_body(DIGIT), inputs={SECRET: 1}, names="inputs"),
    "two inputs": spoil(
        json_body(DIGIT), lambda document: document["inputs"].append(document["inputs"][0])
    ),
    "an input is a string": in_body(json_body(DIGIT), inputs=[SECRET], names="object"),
    "no name": in_input(json_body(DIGIT), name=None, names="name"),
    "an unknown name": in_input(json_body(DIGIT), name=SECRET, names="pixels"),
    "the name is a list": in_input(json_body(DIGIT), name=[SECRET], names="pixels"),
    "no datatype": in_input(json_body(DIGIT), datatype=None, names="datatype"),
    "an unknown datatype": in_input(json_body(DIGIT), datatype=SECRET, names="UINT8"),
    "a datatype of other models": in_input(json_body(DIGIT), datatype="FP64", names="UINT8"),
    "the datatype is an object": in_input(json_body(DIGIT), datatype={}, names="UINT8"),
    "pixels as BYTES": in_input(json_body(DIGIT), datatype="BYTES", names="UINT8"),
    "image as UINT8": in_input(files_body([PNG]), datatype="UINT8", names="BYTES"),
    "an unknown field": in_input(json_body(DIGIT), **{SECRET: 1}, names="shape"),
    "shared memory": in_input(
        json_body(DIGIT),
        data=None,
        parameters={"shared_memory_region": SECRET, "shared_memory_byte_size": 784},
        names="shared memory",
    ),
    "parameters is a list": in_input(json_body(DIGIT), parameters=[SECRET], names="parameter"),
}
SHAPES = {
    "no shape": in_input(json_body(DIGIT), shape=None, names="shape"),
    **{
        name: in_input(json_body(DIGIT), shape=shape, names="shape")
        for name, shape in {
            "a string": SECRET,
            "empty": [],
            "without the batch": [784],
            "28 rows without the batch": [28, 28],
            "of no image": [0, 784],
            "negative": [-1, 784],
            "negative twice": [-1, -784],
            "another size": [1, 783],
            "a product of 784": [2, 392],
            "a fourth axis": [1, 1, 28, 28],
            "a float": [1.0, 784],
            "true": [True, 784],
            "null": [None, 784],
            "a string in it": ["1", 784],
            "a list in it": [[1], 784],
            "beyond 64 bits": [2**70, 784],
            "with 100,000 axes": [1] * 100_000,
        }.items()
    },
    "more images than a request may have": in_input(
        json_body(DIGIT), shape=[257, 784], status=413, names="256"
    ),
    "two billion images": in_input(json_body(DIGIT), shape=[2**31 - 1, 784], status=413),
    "a product beyond 64 bits": in_input(json_body(DIGIT), shape=[2**62, 28, 28], status=413),
    "a product that wraps to 784": in_input(binary_body(DIGIT), shape=[2**32 + 1, 784], status=413),
    "two images, data of one": in_input(json_body(DIGIT), shape=[2, 784], names="2x784"),
    "257 images": Bad(REPEATED.content, status=413, names="256"),
}
DATA = {
    "none": in_input(json_body(DIGIT), data=None, names="data"),
    "null": json_text("null"),
    "a string": json_text(f'"{SECRET}"'),
    "an object": json_text(f'{{"{SECRET}": 1}}'),
    "empty": json_text("[]"),
    "empty rows": json_text("[[]]"),
    "one value missing": json_text(json.dumps(VALUES[:-1])),
    "one value too many": json_text(json.dumps([*VALUES, 0])),
    "ragged rows": json_text(json.dumps([VALUES[:700], VALUES[700:]])),
    "a row among values": json_text(json.dumps([[*VALUES[:-1], [0]]])),
    "nested too deep": json_text(json.dumps([[[value] for value in VALUES]])),
    "a negative value": value("-1"),
    "256": value("256"),
    "2 to the power of 64": value("18446744073709551616"),
    "a float": value("1.0"),
    "a string among values": value(f'"{SECRET}"'),
    "true": value("true"),
    "null among values": value("null"),
    "NaN": Bad(value("NaN").content, names="JSON"),
    "Infinity": Bad(value("-Infinity").content, names="JSON"),
    "FP32: NaN": Bad(value("NaN", "FP32").content, names="JSON"),
    "FP32: beyond float64": Bad(value("1e999", "FP32").content, names="JSON"),
    "FP32: beyond float32": value("1e300", "FP32"),
    "FP32: above 1": in_input(floats(DIGIT / 255), data=[1.01] * 784, names="0 to 1"),
    "FP32: below 0": in_input(floats(DIGIT / 255), data=[-0.01] * 784, names="0 to 1"),
    "FP32: 0 to 255": Bad(floats(DIGIT).content, names="UINT8"),
    "FP32: true": value("true", "FP32"),
}
RAW = {
    "header length negative": with_length("-1"),
    "header length with a sign": with_length("+157"),
    "header length a float": with_length("157.0"),
    "header length hexadecimal": with_length("0x9d"),
    "header length a word": with_length(SECRET),
    "header length empty": with_length(""),
    "header length longer than the body": with_length("100000"),
    "header length beyond 64 bits": with_length("9" * 30),
    "header length of thousands of digits": with_length("9" * 5000),
    "header length one too small": with_length(
        str(int(binary_body(DIGIT).all_headers[HEADER_LENGTH]) - 1)
    ),
    "header length one too large": with_length(
        str(int(binary_body(DIGIT).all_headers[HEADER_LENGTH]) + 1)
    ),
    "no header length": with_length(None),
    "header length of the whole body": with_length(str(len(binary_body(DIGIT).content))),
    "truncated": with_raw(binary_body(DIGIT), DIGIT.tobytes()[:-1], size=784, names="binary"),
    "a byte too many": with_raw(binary_body(DIGIT), DIGIT.tobytes() + b"\0", size=784),
    "declared and sent, but not of the shape": with_raw(
        binary_body(DIGIT), DIGIT.tobytes() + b"\0", names="shape"
    ),
    "size negative": with_raw(binary_body(DIGIT), DIGIT.tobytes(), size=-784),
    "size beyond 64 bits": with_raw(binary_body(DIGIT), DIGIT.tobytes(), size=2**70),
    "size is zero": with_raw(binary_body(DIGIT), b"", names="shape"),
    "size is a float": in_input(
        binary_body(DIGIT), parameters={"binary_data_size": 784.0}, names="binary_data_size"
    ),
    "size is true": in_input(binary_body(DIGIT), parameters={"binary_data_size": True}),
    "size is a string": in_input(binary_body(DIGIT), parameters={"binary_data_size": "784"}),
    "data both ways": in_input(binary_body(DIGIT), data=VALUES, names="both"),
    "unclaimed bytes": Bad(
        GOOD_JSON + SECRET.encode(), headers={HEADER_LENGTH: str(len(GOOD_JSON))}, names="claims"
    ),
    "FP32 with the bytes of UINT8": in_input(binary_body(DIGIT), datatype="FP32", names="shape"),
    "FP32: NaN": Bad(
        binary_body(np.full((1, 784), np.nan, np.float32)).content,
        headers=binary_body(np.full((1, 784), np.nan, np.float32)).all_headers,
        names="FP32",
    ),
    "FP32: infinity": Bad(
        binary_body(np.full((1, 784), np.inf, np.float32)).content,
        headers=binary_body(np.full((1, 784), np.inf, np.float32)).all_headers,
        names="FP32",
    ),
    "FP32: big-endian": with_raw(
        binary_body((DIGIT.reshape(1, 784) / 255).astype(np.float32)),
        (DIGIT / 255).astype(">f4").tobytes(),
        names="FP32",
    ),
    "all of the body, and not whole images": Bad(
        bytes(785), headers={HEADER_LENGTH: "0"}, names="784"
    ),
    "all of the body, and too many images": Bad(
        bytes(784 * 257), headers={HEADER_LENGTH: "0"}, status=413
    ),
    "all of the body, and none": Bad(b"", headers={HEADER_LENGTH: "0"}, names="JSON"),
    "scaled to 0 and 1": Bad(
        binary_body(DIGIT // 255).content,
        headers=binary_body(DIGIT // 255).all_headers,
        names="above 1",
    ),
    "nothing, and ink is looked for": Bad(
        binary_body(DIGIT * 0, {"preprocess": "auto"}).content,
        headers=binary_body(DIGIT * 0, {"preprocess": "auto"}).all_headers,
        names="no ink",
    ),
}
FILES = {
    "big-endian lengths": with_raw(
        files_body([PNG]), len(PNG).to_bytes(4, "big") + PNG, names="little-endian"
    ),
    "a length beyond the end": with_raw(files_body([PNG]), b"\xff\xff\xff\xff" + PNG),
    "a length that ends too early": with_raw(files_body([PNG]), b"\x01\0\0\0" + PNG),
    "half a length": with_raw(files_body([PNG]), length_prefixed([PNG]) + b"\0\0", names="length"),
    "no length": with_raw(files_body([PNG]), b"", names="length"),
    "fewer than the shape says": in_input(files_body([PNG]), shape=[2], names="length"),
    "more than the shape says": in_input(files_body([PNG, PNG]), shape=[1], names="length"),
    "empty": Bad(files_body([b""]).content, headers=files_body([b""]).all_headers, names="empty"),
    "two axes": in_input(files_body([PNG]), shape=[1, 1], names="[B]"),
    "not an image": Bad(
        files_body([SECRET.encode()]).content,
        headers=files_body([SECRET.encode()]).all_headers,
        status=415,
    ),
    "not an image among images": Bad(
        files_body([PNG, SECRET.encode()]).content,
        headers=files_body([PNG, SECRET.encode()]).all_headers,
        status=415,
        names="image 1",
    ),
    "a truncated image": Bad(
        files_body([PNG[:-200]]).content, headers=files_body([PNG[:-200]]).all_headers
    ),
    **{
        f"in JSON: {name}": Bad(
            json.dumps(
                {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}]}
            ).encode(),
            names=names,
        )
        for name, data, names in (
            ("not base64", [f"{SECRET}!"], "base64"),
            ("a number", [7], "base64"),
            ("two", [base64.b64encode(PNG).decode()] * 2, "strings"),
            ("a string without a list", base64.b64encode(PNG).decode(), "strings"),
            ("empty", [""], "empty"),
        )
    },
}
PARAMETERS = {
    "a list": in_body(json_body(DIGIT), parameters=[SECRET], names="parameters"),
    "null": in_body(json_body(DIGIT), parameters=None, names="parameters"),
    **{
        f"{name}: {wrong!r}": in_body(json_body(DIGIT), parameters={name: wrong}, names=names)
        for name, wrong, names in (
            ("passes", 0, "1 to 1000"),
            ("passes", 1001, "1 to 1000"),
            ("passes", 10**30, "1 to 1000"),
            ("passes", 50.0, "1 to 1000"),
            ("passes", "50", "1 to 1000"),
            ("passes", True, "1 to 1000"),
            ("seed", -1, "seed"),
            ("seed", 2**53, "seed"),
            ("seed", [1], "seed"),
            ("estimator", SECRET, "independent"),
            ("preprocess", SECRET, "auto or none"),
            ("max_standard_error", -1, "max_standard_error"),
            ("timeout", 0, "microseconds"),
            ("timeout", -1, "microseconds"),
            ("timeout", 1.5, "microseconds"),
            ("timeout", 10**15, "timeout_ms"),
            ("binary_data_output", "true", "binary_data_output"),
            ("binary_data_output", 1, "binary_data_output"),
            (SECRET, 1, "passes, seed"),
            ("return_passes", True, "unknown"),
            ("coverage", 0.99, "unknown"),
            ("sequence_id", 7, "unknown"),
        )
    },
    "passes for the model without dropout": Bad(
        json_body(DIGIT, {"passes": 5}).content, path="/v2/models/mnist/infer", names="passes"
    ),
    "two estimates that exclude each other": in_body(
        json_body(DIGIT), parameters={"estimator": "balanced", "max_standard_error": 0.1}
    ),
    "a deadline twice": in_body(json_body(DIGIT), parameters={"timeout": 10**6, "timeout_ms": 7}),
}
OUTPUTS = {
    "an object": in_body(json_body(DIGIT), outputs={"name": "digit"}, names="outputs"),
    "strings": in_body(json_body(DIGIT), outputs=["digit"], names="digit"),
    "unknown": in_body(json_body(DIGIT), outputs=[{"name": SECRET}], names="digit"),
    "no name": in_body(json_body(DIGIT), outputs=[{}], names="digit"),
    "the name is a list": in_body(json_body(DIGIT), outputs=[{"name": [SECRET]}], names="digit"),
    "one twice": in_body(json_body(DIGIT), outputs=[{"name": "digit"}] * 2, names="twice"),
    "of the model with dropout": Bad(
        json.dumps({**json_body(DIGIT).document, "outputs": [{"name": "variance"}]}).encode(),
        path="/v2/models/mnist/infer",
        names="digit",
    ),
    "binary is a string": in_body(
        json_body(DIGIT), outputs=[{"name": "digit", "parameters": {"binary_data": "yes"}}]
    ),
    "classification": in_body(
        json_body(DIGIT),
        outputs=[{"name": "probabilities", "parameters": {"classification": 3}}],
        names="classification",
    ),
    "a scatter of one pass": in_body(
        json_body(DIGIT), parameters={"passes": 1}, outputs=[{"name": "variance"}], names="2 passes"
    ),
}
COMPRESSION = {
    "a gzip bomb": compressed(BOMB, "gzip", status=413, names="10,485,760"),
    "a deflate bomb": compressed(zlib.compress(bytes(64 * MiB)), "deflate", status=413),
    "one byte too many": compressed(
        gzip.compress(GOOD_JSON.ljust(10 * MiB + 1)), "gzip", status=413
    ),
    "a bomb within a bomb": compressed(gzip.compress(BOMB), "gzip", names="JSON"),
    "not gzip": compressed(GOOD_JSON, "gzip", names="Content-Encoding"),
    "not deflate": compressed(gzip.compress(GOOD_JSON), "deflate", names="Content-Encoding"),
    "gzip, cut off": compressed(gzip.compress(GOOD_JSON)[:-9], "gzip", names="cut off"),
    "gzip of nothing": compressed(b"", "gzip", names="cut off"),
    "gzip, damaged": compressed(gzip.compress(GOOD_JSON)[:-8] + bytes(8), "gzip"),
    "bytes after gzip": compressed(gzip.compress(GOOD_JSON) + b"more", "gzip"),
    "brotli": compressed(GOOD_JSON, "br", status=415, names="gzip"),
    "twice": compressed(gzip.compress(gzip.compress(GOOD_JSON)), "gzip, gzip", status=415),
    "an unknown encoding": compressed(GOOD_JSON, SECRET, status=415, names="gzip"),
    "11 MiB as they are": Bad(bytes(11 * MiB), status=413, names="10,485,760"),
}
ROUTES = {
    "an unknown model": Bad(GOOD_JSON, path="/v2/models/nobody/infer", status=404, names="mnist"),
    "an unknown version": Bad(
        GOOD_JSON, path="/v2/models/mnist/versions/2/infer", status=404, names="1"
    ),
    "an unknown address": Bad(GOOD_JSON, path="/v2/models/mnist/guess", status=404),
    "statistics": Bad(b"", path="/v2/models/stats", method="GET", status=404),
    "infer with GET": Bad(b"", method="GET", status=405),
    "an index asked for with a word": Bad(b"ready", path="/v2/repository/index"),
    "an index asked for with a list": Bad(b"[]", path="/v2/repository/index"),
}

TABLE: dict[str, Bad] = {
    f"{group}: {name}": bad
    for group, cases in {
        "JSON": JSON_ITSELF,
        "input": INPUTS,
        "shape": SHAPES,
        "data": DATA,
        "raw": RAW,
        "image": FILES,
        "parameter": PARAMETERS,
        "output": OUTPUTS,
        "compression": COMPRESSION,
        "route": ROUTES,
    }.items()
    for name, bad in cases.items()
}


def assert_v2_error(response: httpx.Response, status: int) -> str:
    """Asserts V2's error shape, as stock clients read it; returns the message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"error"}
    assert isinstance(body["error"], str)
    assert SECRET not in response.text
    assert HEADER_LENGTH not in response.headers
    return str(body["error"])


@pytest.mark.parametrize("case", TABLE)
async def test_a_malformed_request_gets_its_status_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    bad = TABLE[case]

    response = await bad.send(client)

    assert bad.names in assert_v2_error(response, bad.status)
    if bad.status == 405:
        assert response.headers["allow"]
    after = await infer(client, "mnist", binary_body(DIGIT))
    assert read_outputs(after)["digit"] == [7]


async def test_what_cannot_be_inflated_is_told_what_can(client: httpx.AsyncClient) -> None:
    response = await COMPRESSION["brotli"].send(client)

    assert response.headers["accept-encoding"] == "gzip, deflate"


def test_the_good_bodies_of_the_table_are_good() -> None:
    # What `spoil` starts from: were it bad itself, the table would prove nothing.
    assert json.loads(GOOD_JSON)["inputs"][0]["shape"] == [1, 784]
    assert len(TABLE) >= 60


async def test_mutations_of_good_requests_break_nothing(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """The short version of `python -m tests.load.v2_mutations`."""
    outcomes: Counter[int] = Counter()
    for request in mutated_requests(600, seed=9):
        response = await client.post(request.path, content=request.content, headers=request.headers)
        outcomes[response.status_code] += 1
        if response.status_code != 200:
            assert_v2_error(response, response.status_code)

    assert outcomes.keys() == {200, 400, 413, 415}
    # Not all of one kind: the mutations reach behind the first check.
    assert outcomes[200] > 20
    assert outcomes[400] > 100
    assert app.state.models.predictor.scheduler.queued == 0
