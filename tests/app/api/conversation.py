"""One request to the application whose answer is seen as it comes."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from fastapi import FastAPI
from starlette.types import Message

from app.api.application import create_app
from app.inference.backlog import Charge
from app.inference.pipeline import Predictor
from app.settings import Settings
from model.checkpoint import Checkpoint

PATIENCE_SECONDS = 30.0
# These take some tenths of a second: time enough to interrupt them.
MANY_PASSES = 65_536
PATIENT = {"max_passes": MANY_PASSES}


@asynccontextmanager
async def serving(checkpoint: Checkpoint, **settings: Any) -> AsyncGenerator[FastAPI, None]:
    app = create_app(Settings(**settings), checkpoint)
    async with app.router.lifespan_context(app):
        yield app


@contextmanager
def full(app: FastAPI) -> Iterator[None]:
    """As if small requests were queued until no other is admitted; for a short `max_wait_ms`."""
    predictor: Predictor = app.state.models.predictor
    longest = app.state.settings.max_wait_ms / 1000
    backlog = predictor.scheduler.backlog
    with ExitStack() as queued:
        while backlog.wait(1) <= longest:
            queued.enter_context(Charge(backlog, 1))
        yield


@dataclass
class Conversation:
    """One request to the application, whose answer is seen as it comes, and may be left.

    Attributes:
        status: of the answer, once its first piece has come.
        headers: likewise.
        pieces: of the body, each with the passes that the engine had computed when it was sent.
    """

    app: FastAPI
    path: str
    body: bytes
    content_type: str = "image/png"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[tuple[bytes, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._arrived = asyncio.Event()

    @property
    def predictor(self) -> Predictor:
        predictor: Predictor = self.app.state.models.predictor
        return predictor

    @property
    def passes(self) -> int:
        """Passes computed since the beginning."""
        return self.predictor.engine.passes_computed - self._before

    async def __aenter__(self) -> Self:
        path, _, query = self.path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},  # as uvicorn has them
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"content-type", self.content_type.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("dropserve", 80),
        }
        self._before = self.predictor.engine.passes_computed
        self._incoming.put_nowait({"type": "http.request", "body": self.body, "more_body": False})
        self.task = asyncio.create_task(self.app(scope, self._incoming.get, self._send))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.leave()
        await self.ended()

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        elif message["body"]:
            self.pieces.append((message["body"], self.passes))
            self._arrived.set()
        await asyncio.sleep(0)  # a network is not instantaneous

    def leave(self) -> None:
        """What the server sees when the connection is closed."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def under_way(self) -> None:
        """Waits for the first passes."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if self.passes:
                    return
                await asyncio.sleep(0)

    async def first_piece(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._arrived.wait()

    async def ended(self) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.wait([self.task])

    async def settled_passes(self) -> int:
        """Passes computed once the request is over, when there is no more to come."""
        await self.ended()
        computed = self.passes
        for _ in range(20):
            await asyncio.sleep(0)
        assert self.passes == computed
        assert self.predictor.scheduler.queued == 0
        return computed

    @property
    def events(self) -> list[tuple[str, bytes]]:
        return parse_events(b"".join(piece for piece, _ in self.pieces))


def parse_events(body: bytes) -> list[tuple[str, bytes]]:
    """Names and data of server-sent events."""
    assert body.endswith(b"\n\n")
    events = []
    for block in body.removesuffix(b"\n\n").split(b"\n\n"):
        name, data = block.split(b"\n")
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: ")
        events.append((name.removeprefix(b"event: ").decode(), data.removeprefix(b"data: ")))
    return events
