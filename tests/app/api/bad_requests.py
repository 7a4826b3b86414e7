"""Requests that must be refused, each with its status, its code and what the message names."""

import base64
import json
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import httpx

from tests.app.api.request_bodies import FORM, JSON, form, part
from tests.conftest import assert_error, sample

# Stands in every body and name that can hold it; no answer may repeat it.
SECRET = "s3cr3t-7f3a"


DIGIT = sample("7.png")
IMAGE = base64.b64encode(DIGIT).decode()
ROWS: list[list[Any]] = [[0] * 28 for _ in range(14)] + [[255] * 28 for _ in range(14)]


def one_bit_png(side: int) -> bytes:
    """A white square of one bit a pixel: 81 megapixels fit into 10 kB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(side * (1 + (side + 7) // 8)), 9)
    chunks = [chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


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
    encoding: str | None = None

    async def send(self, client: httpx.AsyncClient) -> httpx.Response:
        headers = {"content-type": self.content_type, "content-encoding": self.encoding}
        return await client.request(
            self.method,
            self.path + ("?" + self.query if self.query else ""),
            content=self.content,
            headers={name: value for name, value in headers.items() if value is not None},
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


async def assert_refused(client: httpx.AsyncClient, bad: Bad) -> None:
    """Asserts that a request is refused as it must be, and that the server keeps serving."""
    response = await bad.send(client)

    error = assert_error(response, bad.status, bad.code)
    assert SECRET not in response.text
    assert bad.names in error["message"]
    assert bad.param in (None, error["param"])
    if bad.status == 405:
        assert response.headers["allow"]
    after = await client.post("/predict", content=DIGIT)
    assert (after.status_code, after.json()["digit"]) == (200, 7)
