"""Clients of HTTP/1.0, such as some proxies: one answer in a connection, and no chunks."""

import asyncio
import re

import pytest

from app.settings import Settings
from tests.app.process.raw_clients import serving
from tests.app.process.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("keep_alive", [b"", b"Connection: keep-alive\r\n"])
async def test_a_connection_ends_with_its_first_answer(keep_alive: bytes) -> None:
    async with serving(Settings()) as server:
        client = await server.connect()
        client.send(b"POST /whole HTTP/1.0\r\n%sContent-Length: 4\r\n\r\nbody" % keep_alive)

        status, body, headers = await client.answer()
        assert (status, body, headers["connection"]) == (200, "/whole 4", "close")
        assert await client.is_ended()


async def test_an_answer_of_unknown_length_ends_with_the_connection() -> None:
    answers = []
    async with serving(Settings()) as server:
        for version in (b"1.0", b"1.1"):
            client = await server.connect()
            client.send(b"GET /streamed HTTP/%s\r\nConnection: close\r\n\r\n" % version)
            whole = await asyncio.wait_for(client.reader.read(), PATIENCE_SECONDS)
            answers.append(whole.split(b"\r\n\r\n", 1))

    (old_head, old_body), (head, body) = (
        (re.sub(rb"\r\ndate: [^\r]*", b"", head), body) for head, body in answers
    )
    assert old_body == b"one, two"
    assert body == b"5\r\none, \r\n3\r\ntwo\r\n0\r\n\r\n"
    assert head.replace(b"\r\ntransfer-encoding: chunked", b"") == old_head


async def test_an_answer_that_speaks_of_chunks_stays_as_it_is() -> None:
    async with serving(Settings()) as server:
        client = await server.connect()
        client.send(b"GET /transfer-encoding:%20chunked%0d%0a HTTP/1.0\r\n\r\n")

        assert (await client.answer())[1].startswith("/transfer-encoding: chunked")
