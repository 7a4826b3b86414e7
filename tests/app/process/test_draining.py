"""The drain and the end of a server, over real sockets; signals are calls here."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app.process.draining import DrainingServer
from app.settings import Settings
from tests.app.process.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.asyncio(loop_scope="session")

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"


class _App:
    def __init__(self, drain_seconds: float) -> None:
        self.state = SimpleNamespace(
            settings=Settings(drain_seconds=drain_seconds), is_draining=False
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await PlainTextResponse("here")(scope, receive, send)


class _Running:
    def __init__(self, server: DrainingServer, serving: "asyncio.Task[None]") -> None:
        self.server, self.serving = server, serving
        self.address: tuple[str, int] = server.servers[0].sockets[0].getsockname()

    async def get(self) -> bytes:
        """The head of an answer on a new connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(REQUEST)
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        return head.lower()

    async def end(self) -> None:
        await asyncio.wait_for(self.serving, PATIENCE_SECONDS)


@asynccontextmanager
async def serving(drain_seconds: float) -> AsyncIterator[_Running]:
    app = _App(drain_seconds)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        lifespan="off",
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = DrainingServer(config, app)  # type: ignore[arg-type]
    # Without `serve`, which would take the signals of this process.
    task = asyncio.create_task(server._serve())
    await until(lambda: server.started)
    running = _Running(server, task)
    try:
        yield running
    finally:
        server.should_exit = server.force_exit = True
        await running.end()


async def test_sigterm_drains_and_then_ends_the_server() -> None:
    async with serving(drain_seconds=2) as running:
        assert b"connection: close" not in await running.get()
        began = time.monotonic()
        running.server.handle_exit(signal.SIGTERM, None)

        assert running.server.app.state.is_draining
        assert b"connection: close" in await running.get()
        await running.end()
        assert time.monotonic() - began >= 2
        with pytest.raises(ConnectionRefusedError):
            await running.get()


async def test_the_answers_of_a_drain_close_their_connections_to_the_end() -> None:
    async with serving(drain_seconds=60) as running:
        await running.get()
        running.server.handle_exit(signal.SIGTERM, None)
        # uvicorn replaces the default headers once a second.
        await running.server.on_tick(0)

        assert b"connection: close" in await running.get()


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]],
)
async def test_sigint_and_a_second_signal_do_not_wait(signals: list[signal.Signals]) -> None:
    async with serving(drain_seconds=60) as running:
        await running.get()
        for one in signals:
            running.server.handle_exit(one, None)

        await running.end()
        assert running.server.force_exit == (len(signals) == 2)
        assert running.server.last_signal == signals[-1]


async def test_without_seconds_to_drain_sigterm_ends_the_server() -> None:
    async with serving(drain_seconds=0) as running:
        await running.get()
        running.server.handle_exit(signal.SIGTERM, None)

        await running.end()
        assert not running.server.app.state.is_draining


async def test_a_server_that_nobody_has_asked_anything_ends_at_once() -> None:
    async with serving(drain_seconds=60) as running:
        running.server.handle_exit(signal.SIGTERM, None)

        await running.end()
        assert not running.server.force_exit


@pytest.mark.parametrize("sent", [b"", REQUEST[:20], REQUEST])
async def test_a_server_drains_once_somebody_has_connected(sent: bytes) -> None:
    async with serving(drain_seconds=60) as running:
        _, writer = await asyncio.open_connection(*running.address)
        writer.write(sent)
        await until(lambda: bool(running.server.server_state.connections))
        running.server.handle_exit(signal.SIGTERM, None)

        assert running.server.app.state.is_draining
        assert not running.server.should_exit
        writer.close()


async def test_who_is_connected_but_not_accepted_yet_is_answered() -> None:
    async with serving(drain_seconds=60) as running:
        # No `await` until the end begins: only the kernel knows of them.
        clients = [socket.create_connection(running.address) for _ in range(20)]
        for client in clients[::2]:
            client.sendall(REQUEST)
        ending = asyncio.create_task(running.server.shutdown())
        await until(lambda: len(running.server.server_state.connections) == len(clients))
        for client in clients[1::2]:  # whose request is still on the way
            client.sendall(REQUEST)
        with pytest.raises(ConnectionRefusedError):
            await running.get()
        await ending

        for client in clients:
            client.settimeout(PATIENCE_SECONDS)
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
            client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can stop to connect")
async def test_the_kernel_connects_nobody_new_once_the_end_begins() -> None:
    async with serving(drain_seconds=60) as running:
        listener = running.server.servers[0].sockets[0].dup()  # whose last copy stays open
        await running.server.shutdown()

        with pytest.raises(TimeoutError):
            socket.create_connection(running.address, timeout=0.2)
        listener.setblocking(False)
        with listener, pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("before", "first", "rest"),
    [
        (b"", REQUEST[:20], REQUEST[20:]),
        (REQUEST, REQUEST[:20], REQUEST[20:]),
        (REQUEST, b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbo", b"dy"),
    ],
    ids=["headers", "later headers", "body"],
)
async def test_who_has_begun_a_request_may_end_it_after_the_listener_is_closed(
    before: bytes, first: bytes, rest: bytes
) -> None:
    async with serving(drain_seconds=60) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        if before:
            writer.write(before)
            await reader.readuntil(b"here")
        writer.write(first)
        await asyncio.sleep(0.05)
        ending = asyncio.create_task(running.server.shutdown())
        await asyncio.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            await running.get()
        writer.write(rest)

        answer = await asyncio.wait_for(reader.read(), PATIENCE_SECONDS)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()
        await ending


async def test_a_silent_connection_does_not_hold_up_the_end() -> None:
    async with serving(drain_seconds=0) as running:
        running.server.config.timeout_graceful_shutdown = 60  # longer than the test
        with socket.create_connection(running.address):
            running.server.handle_exit(signal.SIGTERM, None)
            await running.end()
