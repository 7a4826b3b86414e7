"""V2 requests that must be refused: good bodies with one thing changed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from tests.app.open_inference.inference_requests import (
    DIGIT,
    HEADER_LENGTH,
    InferBody,
    binary_body,
    infer,
    json_body,
    read_outputs,
)
from tests.conftest import sample

# Stands in names and values; no answer may repeat it.
SECRET = "s3cr3t-7f3a"


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
        headers: which are sent.
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


def floats(values: Any) -> InferBody:
    return json_body(np.asarray(values, dtype=np.float32).reshape(1, 784))


GOOD_JSON = json_body(DIGIT).content


def cases_of(group: str, cases: dict[str, Bad]) -> dict[str, Bad]:
    return {f"{group}: {name}": bad for name, bad in cases.items()}


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


async def assert_refused(client: httpx.AsyncClient, bad: Bad) -> None:
    """Asserts that a request is refused as it must be, and that the server keeps serving."""
    response = await bad.send(client)

    assert bad.names in assert_v2_error(response, bad.status)
    if bad.status == 405:
        assert response.headers["allow"]
    after = await infer(client, "mnist", binary_body(DIGIT))
    assert read_outputs(after)["digit"] == [7]
