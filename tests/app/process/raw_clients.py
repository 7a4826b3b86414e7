"""The protocol with a small application behind it, and clients that send whatever they like."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.process.connections import BoundedProtocol
from app.process.refusing import refusing_protocol
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.app.process.waiting import PATIENCE_SECONDS

WHOLE = b"POST /whole HTTP/1.1\r\nHost: here\r\nContent-Length: 4\r\n\r\nbody"


class App:
    """Reads the body and answers with what it was; knows the requests it was asked.

    `/large` has a large answer, `/streamed` one of unknown length, `/unread` does not read the
    body, `/watched` waits until its client is gone, and `/health/live` does not wait for
    `may_answer`.
    """

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.left: list[str] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        path = scope["path"]
        response: Response
        if path == "/large":
            response = Response(bytes(16 * 2**20))
        elif path == "/unread":
            response = PlainTextResponse(path)
        elif path == "/streamed":
            response = StreamingResponse(iter(["one, ", "", "two"]))
        else:
            try:
                body = await Request(scope, receive).body()
            except ClientDisconnect:
                self.left.append(path)
                return
            if path == "/watched":
                assert (await receive())["type"] == "http.disconnect"
                self.left.append(path)
                return
            if path != "/health/live":
                await self.may_answer.wait()
            response = PlainTextResponse(f"{path} {len(body)}")
        await response(scope, receive, send)


class Client:
    """A connection on which anything can be sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, content: bytes) -> None:
        self.writer.write(content)

    async def answer(self) -> tuple[int, str, dict[str, str]]:
        """Status, body and headers of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_SECONDS)
        status, *lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), body.decode(), headers

    async def refusal(self) -> tuple[int, str]:
        """Status and code of an answer in the error shape, after which the connection ends."""
        status, body, headers = await self.answer()
        error = json.loads(body)["error"]
        assert error.keys() == {"code", "message", "param", "request_id"}
        assert headers["content-type"] == "application/json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["connection"] == "close"
        assert await self.is_ended()
        return status, error["code"]

    async def is_ended(self) -> bool:
        """Whether the server ends the connection, and has nothing more to say."""
        try:
            return await asyncio.wait_for(self.reader.read(), PATIENCE_SECONDS) == b""
        except ConnectionResetError:
            return True


class Server:
    def __init__(
        self, app: App, protocol: type[BoundedProtocol], state: ServerState, port: int
    ) -> None:
        self.app, self.protocol, self.state, self.port = app, protocol, state, port
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self, **options: Any) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, **options)
        self._writers.append(writer)
        return Client(reader, writer)

    def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def serving(
    settings: Settings, metrics: Metrics | None = None, check_seconds: float = 0.02
) -> AsyncIterator[Server]:
    """The protocol, looking often, and a small application behind it."""
    app, state = App(), ServerState()
    protocol = refusing_protocol(settings, metrics)
    protocol.check_seconds = check_seconds
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    one = Server(app, protocol, state, server.sockets[0].getsockname()[1])
    try:
        yield one
    finally:
        one.close()
        server.close()
        await server.wait_closed()
