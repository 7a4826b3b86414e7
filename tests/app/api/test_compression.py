"""gzip and deflate: what is undone, under which limit, and what is compressed."""

import gzip
import zlib
from collections.abc import Callable

import httpx
import numpy as np
import pytest

from app.api.compression import deflate, inflate, inflate_inline
from app.errors import ErrorCode
from tests.api_errors import raises_error
from tests.app.open_inference.bad_requests import (
    GOOD_JSON,
    SECRET,
    Bad,
    MiB,
    assert_refused,
    cases_of,
)
from tests.app.open_inference.inference_requests import DIGITS, SEVEN, binary_body, infer, json_body


def compressed(content: bytes, encoding: str, *, status: int = 400, names: str = "") -> Bad:
    headers = {"content-encoding": encoding}
    return Bad(content, headers=headers, status=status, names=names)


BOMB = gzip.compress(bytes(64 * MiB))
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


TABLE = {**cases_of("compression", COMPRESSION)}


@pytest.mark.parametrize("case", TABLE)
async def test_a_malformed_request_gets_its_status_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


async def test_an_encoding_that_cannot_be_undone_is_answered_with_those_that_can(
    client: httpx.AsyncClient,
) -> None:
    response = await COMPRESSION["brotli"].send(client)

    assert response.headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "GZIP"])
async def test_a_compressed_request_is_the_same_request(
    client: httpx.AsyncClient, encoding: str
) -> None:
    body = binary_body(DIGITS, {"seed": 1})
    plain = await infer(client, "mnist-mc", body)
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda content: gzip.compress(content),
        "deflate": lambda content: zlib.compress(content),
    }

    response = await client.post(
        "/v2/models/mnist-mc/infer",
        content=compress.get(encoding.lower(), bytes)(body.content),
        headers={**body.all_headers, "content-encoding": encoding},
    )

    assert response.status_code == 200, response.text
    assert response.content == plain.content


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("br;q=1.0, gzip;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.0", None),
        ("identity", None),
        ("br", None),
        ("", None),
    ],
)
async def test_a_response_is_compressed_as_the_client_wishes(
    client: httpx.AsyncClient, accepted: str, expected: str | None
) -> None:
    body = json_body(DIGITS, {"seed": 1})
    body.headers["accept-encoding"] = "identity"
    plain = await infer(client, "mnist-mc", body)
    body.headers["accept-encoding"] = accepted

    response = await infer(client, "mnist-mc", body)

    assert response.headers.get("content-encoding") == expected
    assert response.content == plain.content  # httpx inflates


async def test_a_small_response_is_left_as_it_is(client: httpx.AsyncClient) -> None:
    body = json_body(SEVEN)
    body.headers["accept-encoding"] = "gzip"

    assert "content-encoding" not in (await infer(client, "mnist", body)).headers


@pytest.mark.parametrize("size", [1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 10**6])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_is_inflated_and_deflated_stays_the_same(size: int, encoding: str) -> None:
    content = np.random.default_rng(1).integers(0, 4, size, dtype=np.uint8).tobytes()
    compressed, name = await deflate(content.ljust(1024), encoding)

    assert name == encoding
    assert inflate(compressed, encoding, 2 * 10**6) == content.ljust(1024)
    inline = inflate_inline(compressed, encoding, 2 * 10**6)
    # At the limit itself the trailer may be left.
    assert inline == content.ljust(1024) if size < 64 * 1024 else inline in (None, content)
    assert size <= 64 * 1024 or inline is None


@pytest.mark.parametrize("limit", [100, 64 * 1024, 100_000])
async def test_the_limit_of_inflating_is_exact(limit: int) -> None:
    assert len(inflate(gzip.compress(bytes(limit)), "gzip", limit)) == limit
    with raises_error(ErrorCode.BODY_TOO_LARGE):
        inflate(gzip.compress(bytes(limit + 1)), "gzip", limit)
