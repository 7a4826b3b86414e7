"""Requests that are sent before the answers to earlier ones, and clients that go away meanwhile."""

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from app.process import pipelining
from app.process.connections import BoundedProtocol
from app.settings import Settings
from tests.app.process.raw_clients import WHOLE, Client, Server, serving
from tests.app.process.waiting import until

WATCHED = WHOLE.replace(b"whole", b"watched")
GET = b"GET / HTTP/1.1\r\n\r\n"
# Those that may wait, and those of one piece.
FEW = pipelining._MOST_WAITING + pipelining._PIECE_BYTES // len(GET) + 2

Scenario = Callable[[Server], Coroutine[None, None, None]]


@asynccontextmanager
async def _strict(settings: Settings) -> AsyncIterator[Server]:
    """Nothing may be left over in the end, nor may there be an error of the event loop."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with serving(settings) as server:
        yield server
    await until(lambda: not server.state.connections)
    assert not errors
    assert server.protocol.held_bytes == 0


def run(scenario: Scenario, settings: Settings | None = None) -> None:
    """On the event loop that serves: the other one writes to a lost connection without an error."""

    async def run_it() -> None:
        async with _strict(settings or Settings()) as server:
            await scenario(server)

    uvloop.run(run_it())


def reset(client: Client) -> None:
    connection: socket.socket = client.writer.get_extra_info("socket")
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    client.writer.transport.abort()


def connections(server: Server) -> list[Any]:
    return [one for one in server.state.connections if getattr(one, "cycle", None)]


def waiting(server: Server) -> list[int]:
    """The number of requests that wait in each connection."""
    return [len(one.pipeline) for one in connections(server)]


def test_a_few_requests_are_parsed_at_a_time() -> None:
    async def scenario(server: Server) -> None:
        server.app.may_answer.clear()
        client = await server.connect()
        client.send(GET * 14_000)
        await until(lambda: server.protocol.held_bytes > 100_000)

        assert len(server.app.scopes) == 1
        assert waiting(server)[0] <= FEW

        server.app.may_answer.set()
        most = 0
        for _ in range(14_000):
            assert (await client.answer())[:2] == (200, "/ 0")
            most = max(most, *waiting(server))
        assert most <= FEW
        client.send(WHOLE)
        assert (await client.answer())[:2] == (200, "/whole 4")

    run(scenario)


@pytest.mark.parametrize("piece", [2**20, 1000, 19], ids=["whole", "in pieces", "in small pieces"])
def test_pipelined_bodies_of_any_size_and_content_are_read(piece: int) -> None:
    bodies = [b"", b"a", b"\r\n\r\n" * 1000, GET * 300, bytes(300_000), b"\r\n\r\n"]

    async def scenario(server: Server) -> None:
        client = await server.connect()
        requests = b"".join(
            b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (number, len(body), body)
            for number, body in enumerate(bodies * 3)
        )
        requests = requests[: 200 * piece] if piece == 19 else requests
        sending = [requests[at : at + piece] for at in range(0, len(requests), piece)]
        for content in sending:
            client.send(content)
            await asyncio.sleep(0)
        for number, body in enumerate(bodies * 3 if piece != 19 else bodies[:2]):
            assert (await client.answer())[:2] == (200, f"/{number} {len(body)}")

    run(scenario)


def test_a_body_of_known_length_is_parsed_at_once() -> None:
    body = b"\r\n\r\n" * 20_000

    async def scenario(server: Server) -> None:
        fed: list[int] = []

        def feed(self: Any, data: bytes) -> None:
            fed.append(len(data))
            BoundedProtocol._feed(self, data)

        server.protocol._feed = feed  # type: ignore[method-assign]
        client = await server.connect()
        for declared in (b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked"):
            fed.clear()
            sent = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            sent = body if b"Length" in declared else sent
            client.send(b"POST / HTTP/1.1\r\n%s\r\n\r\n%s" % (declared, sent))
            assert (await client.answer())[:2] == (200, f"/ {len(body)}")
            assert (len(fed) < 10) == (sent is body)

    run(scenario)


def test_what_all_connections_hold_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelining, "_MOST_HELD_BYTES", 300_000)

    async def scenario(server: Server) -> None:
        server.app.may_answer.clear()
        clients = [await server.connect() for _ in range(5)]
        for number, client in enumerate(clients[:3], 1):
            client.send(GET * 5000)
            # But for the few that are parsed.
            least = number * len(GET) * (5000 - FEW)
            await until(lambda: server.protocol.held_bytes >= least)  # noqa: B023
        for left, client in ((4, clients[3]), (3, clients[4])):
            client.send(GET * 5000)
            await until(lambda: len(server.state.connections) == left)  # noqa: B023
        assert server.protocol.held_bytes <= 300_000

        server.app.may_answer.set()
        for client in clients[:3]:
            for _ in range(5000):
                assert (await client.answer())[0] == 200

    run(scenario)


@pytest.mark.parametrize("more", [b"", GET, WHOLE, WHOLE * 3], ids=["none", "one", "body", "three"])
def test_a_caller_who_resets_is_given_up(more: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: Server) -> None:
        server.protocol.check_seconds = 60.0  # before anything else looks
        client = await server.connect()
        client.send(WATCHED + more)
        await until(lambda: len(server.app.scopes) == 1)
        await asyncio.sleep(0.02)
        reset(client)

        await until(lambda: server.app.left == ["/watched"])
        assert len(server.app.scopes) == 1

    run(scenario)
    assert not caplog.records


def test_an_answer_that_nobody_waits_for_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: Server) -> None:
        server.app.may_answer.clear()
        for number in range(20):
            client = await server.connect()
            client.send(WHOLE + GET)
            await until(lambda: len(server.app.scopes) > number)  # noqa: B023
            reset(client)
        await until(lambda: not server.state.connections)
        server.app.may_answer.set()
        await asyncio.sleep(0.1)
        assert len(server.app.scopes) == 20

    with caplog.at_level(logging.DEBUG, logger="uvicorn"):
        run(scenario)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_who_resets_while_nothing_is_read_is_given_up() -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        client.send(WATCHED + GET * 14_000)
        await until(lambda: server.protocol.held_bytes > 0)
        reset(client)

        await until(lambda: server.app.left == ["/watched"])

    run(scenario)


@pytest.mark.parametrize("count", [1, 3])
def test_a_client_that_sends_nothing_more_is_answered(count: int) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        server.app.may_answer.clear()
        client.send(WHOLE * count)
        client.writer.write_eof()
        await until(lambda: any(not one.cycle.keep_alive for one in connections(server)))
        server.app.may_answer.set()

        for _ in range(count):
            status, body, headers = await client.answer()
            assert (status, body) == (200, "/whole 4")
        assert headers["connection"] == "close"
        assert await client.is_ended()

    run(scenario)


def test_a_large_answer_reaches_a_client_that_sends_nothing_more() -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        client.send(b"GET /large HTTP/1.1\r\n\r\n")
        client.writer.write_eof()

        assert len((await client.answer())[1]) == 16 * 2**20

    run(scenario)


@pytest.mark.parametrize("request_", [WATCHED, WATCHED + WHOLE, WHOLE[:-1], WHOLE[:9]])
def test_who_sends_nothing_more_and_asks_for_much_is_left(request_: bytes) -> None:
    async def scenario(server: Server) -> None:
        server.protocol.check_seconds = 60.0  # before any limit of time is looked at
        client = await server.connect()
        client.send(request_)
        client.writer.write_eof()

        assert await client.is_ended()
        assert len(server.app.left) == len(server.app.scopes) <= 1

    run(scenario)


def test_a_pipelined_body_that_pauses_reading_is_read_to_its_end() -> None:
    """uvicorn reads no more than 64 KiB ahead, and a small rest is waited for: not both at once."""
    size = 70_000
    request = b"POST /large_one HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (size, bytes(size))

    async def scenario(server: Server) -> None:
        server.app.may_answer.clear()
        client = await server.connect()
        client.send(WHOLE + request[:-10_000])
        await until(lambda: sum(one._body_left for one in connections(server)) < 12_000)
        server.app.may_answer.set()
        assert (await client.answer())[1] == "/whole 4"
        for piece in (request[-10_000:-3000], request[-3000:]):
            client.send(piece)
            await asyncio.sleep(0.05)
        assert (await client.answer())[:2] == (200, f"/large_one {size}")

    run(scenario)
