"""What was refused as too much is refused again by its head; all else reaches the application."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.api.middleware import Refusal
from app.process import refusing
from app.settings import Settings
from tests.app.process.raw_clients import WHOLE, App, Client, Server, serving
from tests.app.process.waiting import until

HEAD = b"POST /much HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\n"
MUCH = HEAD + b"body"

Scenario = Callable[[Server], Coroutine[None, None, None]]


class Door:
    """Refuses while it is shut; notes what it was shown of each body.

    As an application it answers `/much`, and says how the next are refused.
    """

    def __init__(self) -> None:
        self.is_shut = True
        self.shown: list[bytes] = []

    def wait(self, start: bytes, _size: int) -> int | None:
        self.shown.append(start)
        return 7 if self.is_shut else None

    def refuse(self, wait: int, seconds: float) -> bytes:
        assert (wait, seconds >= 0) == (7, True)
        return b"content-length: 5\r\n\r\nagain"

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["refuse_like_this"] = lambda: Refusal(self.wait, self.refuse)
        await PlainTextResponse("first", status_code=429)(scope, receive, send)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    made, answer = Door(), App.__call__

    async def call(self: App, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/much":
            await answer(self, scope, receive, send)
            return
        self.scopes.append(scope)
        if b"now" not in scope["query_string"]:
            message = await receive()
            while message["more_body"]:
                message = await receive()
        await made.answer(scope, receive, send)

    monkeypatch.setattr(App, "__call__", call)
    return made


def run(scenario: Scenario, settings: Settings | None = None) -> None:
    async def run_it() -> None:
        async with serving(settings or Settings()) as server:
            await scenario(server)
        await until(lambda: not server.state.connections)

    uvloop.run(run_it())


async def ask(client: Client, request: bytes = MUCH) -> tuple[int, str]:
    client.send(request)
    return (await client.answer())[:2]


def test_the_same_head_is_refused_without_the_application(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client, other = await server.connect(), await server.connect()
        assert await ask(client) == (429, "first")
        assert await ask(client) == (429, "again")
        assert await ask(other) == (429, "again")
        assert len(server.app.scopes) == 1
        assert door.shown == [b"body"] * 2
        assert server.state.total_requests == 3

        # The connection goes on; with another head the application is asked.
        assert await ask(client, WHOLE) == (200, "/whole 4")
        assert await ask(client, MUCH.replace(b"here", b"there")) == (429, "first")

    run(scenario)


def test_what_is_not_too_much_any_more_reaches_the_application(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client)
        door.is_shut = False
        assert await ask(client) == (429, "first")
        assert len(server.app.scopes) == 2

    run(scenario)


@pytest.mark.parametrize(("size", "piece"), [(4, 3), (4, 50_000), (300_000, 50_000)])
def test_the_body_of_a_refused_request_is_skipped(door: Door, size: int, piece: int) -> None:
    head = HEAD.replace(b" 4", b" %d" % size)
    body = (b"\r\n\r\nPOST /much " * 30_000)[:size]

    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client, head + body)
        client.send(head)
        assert (await client.answer())[:2] == (429, "again")
        for start in range(0, size, piece):
            client.send(body[start : start + piece])
            await asyncio.sleep(0)
        assert await ask(client, WHOLE) == (200, "/whole 4")
        assert await ask(client, head + body + WHOLE) == (429, "again")
        assert (await client.answer())[:2] == (200, "/whole 4")
        assert door.shown[0] == b""
        assert body.startswith(door.shown[1])
        assert 4 <= len(door.shown[1]) <= refusing._LOOKED_AT

    run(scenario)


def test_of_many_requests_in_one_piece_one_is_refused_by_its_head(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client)
        client.send(MUCH * 3 + WHOLE)
        answers = [(await client.answer())[1] for _ in range(4)]
        assert answers[0] == "again"
        assert answers[3] == "/whole 4"
        assert set(answers[1:3]) <= {"first", "again"}

    run(scenario)


def test_nothing_is_answered_before_an_earlier_request(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client)
        server.app.may_answer.clear()
        client.send(WHOLE)
        await until(lambda: len(server.app.scopes) == 2)
        client.send(MUCH)
        await asyncio.sleep(0.05)
        server.app.may_answer.set()
        assert (await client.answer())[1] == "/whole 4"
        assert (await client.answer())[0] == 429

    run(scenario)


def test_a_head_in_pieces_takes_the_usual_way(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client)
        for piece in (HEAD[:10], HEAD[10:30], HEAD[30:], b"bo", b"dy"):
            client.send(piece)
            await asyncio.sleep(0.01)
        assert (await client.answer())[1] == "first"
        assert len(server.protocol.remembered) == 1  # type: ignore[attr-defined]

    run(scenario)


@pytest.mark.parametrize(
    ("line", "replaced"),
    [
        (b"Origin: https://page.example", b""),
        (b"X-Request-Id: mine", b""),
        (b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b""),
        (b"Expect: 100-continue", b""),
        (b"Upgrade: h2c", b""),
        (b"a: b", b"HTTP/1.1"),
        (b"Transfer-Encoding: chunked", b"\r\nContent-Length: 4"),
        (b"Padding: " + b"a" * 3000, b""),
    ],
)
def test_unusual_heads_take_the_usual_way(door: Door, line: bytes, replaced: bytes) -> None:
    request = HEAD.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")
    body = b"body"
    if line.startswith(b"a"):
        request = request.replace(replaced, b"HTTP/1.0")
    elif replaced:
        request, body = request.replace(replaced, b""), b"4\r\nbody\r\n0\r\n\r\n"

    async def scenario(server: Server) -> None:
        for _ in range(2):
            client = await server.connect()
            client.send(request + body)
            status = await client.reader.readuntil(b"\r\n")
            while b"100 Continue" in status:
                await client.reader.readuntil(b"\r\n")
                status = await client.reader.readuntil(b"\r\n")
            assert b" 429 " in status
            assert b"again" not in await client.reader.read(1000)
        assert len(server.app.scopes) == 2

    run(scenario)


@pytest.mark.parametrize("size", [4, 500_000])
def test_a_connection_that_is_to_end_ends_with_the_refusal(door: Door, size: int) -> None:
    head = HEAD.replace(b" 4\r\n", b" %d\r\nConnection: close\r\n" % size)

    async def scenario(server: Server) -> None:
        for wanted in ("first", "again"):
            client = await server.connect()
            client.send(head + bytes(size if wanted == "first" else 4))
            status, body, headers = await client.answer()
            assert (status, body, headers["connection"]) == (429, wanted, "close")
            client.send(bytes(10))
            assert await client.is_ended()
        assert len(server.app.scopes) == 1
        client.writer.close()
        await until(lambda: not server.state.connections)

    run(scenario)


def test_a_client_that_is_only_refused_is_not_idle(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client)
        for _ in range(12):
            await asyncio.sleep(0.3)
            assert await ask(client) == (429, "again")

    run(scenario, Settings(keep_alive_seconds=3))


def test_a_client_that_was_only_refused_by_its_head_is_not_silent(door: Door) -> None:
    async def scenario(server: Server) -> None:
        await ask(await server.connect())
        client = await server.connect()
        for _ in range(8):
            assert await ask(client) == (429, "again")
            await asyncio.sleep(0.2)

    run(scenario, Settings(max_head_seconds=1))


def test_refusals_are_written_before_the_connections_end(door: Door) -> None:
    async def scenario(server: Server) -> None:
        client = await server.connect()
        await ask(client)
        (connection,) = server.state.connections
        assert isinstance(connection, refusing.RefusingProtocol)
        connection.data_received(MUCH)
        connection.shutdown()
        assert (await client.answer())[:2] == (429, "again")
        assert await client.is_ended()

    run(scenario)


def test_a_large_body_is_not_waited_for(door: Door) -> None:
    request = b"POST /much?now HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (refusing.LONGEST_BODY + 1)

    async def scenario(server: Server) -> None:
        for _ in range(2):
            client = await server.connect()
            assert await ask(client, request) == (429, "first")

    run(scenario)


def test_the_heads_seen_last_are_remembered(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusing, "MOST_REMEMBERED", 3)

    def request(number: int) -> bytes:
        return MUCH.replace(b"here", b"here%d" % number)

    async def scenario(server: Server) -> None:
        client = await server.connect()
        for number in (0, 1, 2, 0, 3):
            await ask(client, request(number))
        assert [(await ask(client, request(number)))[1] for number in (0, 2, 3)] == ["again"] * 3
        assert await ask(client, request(1)) == (429, "first")
        remembered: Any = server.protocol
        assert len(remembered.remembered) == 3

    run(scenario)


def test_a_server_that_refuses_connections_has_a_memory_of_its_own(door: Door) -> None:
    async def scenario(server: Server) -> None:
        await ask(await server.connect())
        async with serving(Settings()) as other:
            assert await ask(await other.connect()) == (429, "first")
        await until(lambda: not other.state.connections)

    run(scenario)


def test_requests_in_any_pieces_are_answered_in_their_order(door: Door) -> None:
    chance, streams = random.Random(7), 80

    async def stream(server: Server) -> None:
        client, expected, sent = await server.connect(), [], b""
        for number in range(chance.randint(1, 12)):
            size = chance.choice([0, 1, 50, 3000, 20_000, 70_000, 300_000])
            path = chance.choice(["/much", "/much", f"/{number}"])
            head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {size}\r\n\r\n"
            sent += head.encode() + (b"POST /much HTTP/1.1\r\n\r\n" * size)[:size]
            expected.append((path, size))

        async def send() -> None:
            start = 0
            while start < len(sent):
                size = chance.choice([3, 100, 5000] if len(sent) < 3000 else [5000, 66_000, 10**6])
                client.send(sent[start : start + size])
                start += size
                await asyncio.sleep(chance.choice([0, 0, 0.0005]))

        sending = asyncio.create_task(send())
        for path, size in expected:
            door.is_shut = chance.random() < 0.8
            status, body, _ = await client.answer()
            if path == "/much":
                assert (status, body) in ((429, "first"), (429, "again"))
            else:
                assert (status, body) == (200, f"{path} {size}")
        await sending

    async def scenario(server: Server) -> None:
        for _ in range(streams):
            await stream(server)
        assert door.shown

    run(scenario)
