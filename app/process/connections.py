"""Connections that cost little, whatever their other end does: uvicorn's protocol with limits.

uvicorn waits without end for a request that has begun, for a first one that never comes, and for a
reader that does not read; it takes heads of any size, and answers what is no HTTP with text. Here a
connection is looked at once a second, which costs a request nothing.
"""

import asyncio
from typing import Any, Literal

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from app.api.middleware import SECURITY_HEADERS
from app.errors import ApiError, ErrorCode
from app.schemas import error_body
from app.settings import Settings
from app.telemetry.metrics import Metrics

MOST_HEADERS = 100
MOST_HEAD_BYTES = 32 * 1024
# The refused have so long to read why, and to stop sending.
_LINGERING_SECONDS = 2.0
# At the limit of connections so many give way at once, so that few look for them.
_GIVING_WAY = 10

# What the server waits for: another request, which uvicorn counts the time of; the head of one that
# has begun, or of the first; its body; a reader; or its own answer.
Phase = Literal["idle", "head", "body", "reader", "answer"]


class BoundedProtocol(HttpToolsProtocol):
    """One connection; `bounded_protocol` makes the class that has the settings."""

    settings: Settings
    metrics: Metrics | None
    looking_seconds = 1.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._is_deaf = False  # what still comes is not looked at
        self._refused_at: float | None = None
        self._chunk_bytes = 0
        # The head that is not whole yet, and how much of it came in whole chunks.
        self._partial: object = None
        self._partial_bytes = 0
        # What is waited for, in which request, and since when.
        self._waiting_for: tuple[Phase, RequestResponseCycle | None] = ("head", None)
        self._since = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Counts it; where there are too many, the longest idle ones give way."""
        super().connection_made(transport)
        self._watch = self.loop.call_later(self.looking_seconds, self._look)
        if len(self.connections) > self.settings.max_connections and not self._make_room():
            self._refuse(ApiError(ErrorCode.OVERLOADED, headers={"Retry-After": "1"}))

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, without its own answer and its warning for what anyone may send."""
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        self._chunk_bytes = len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            is_too_large = isinstance(error.__context__, _TooLargeHeadError)
            self._refuse_what_came(
                ApiError(ErrorCode.HEAD_TOO_LARGE)
                if is_too_large
                else ApiError(ErrorCode.INVALID_HTTP)
            )
            return
        if self._has_begun():
            self._count_partial_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """As uvicorn's, up to a number of lines: the rest of ten thousand is not even parsed."""
        if len(self.headers) == MOST_HEADERS:
            raise _TooLargeHeadError
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuses a head that is too large; the request's task is made only after that."""
        headers = self.headers
        # A head within one small piece is not worth counting.
        if self._chunk_bytes > MOST_HEAD_BYTES or self._partial is self.scope:
            size = len(self.url) + sum(len(name) + len(value) for name, value in headers)
            if size > MOST_HEAD_BYTES:
                raise _TooLargeHeadError
        if self.parser.should_upgrade():
            return  # the parser stops here; see `_stay_with_http`
        super().on_headers_complete()
        # What a chunked body ends with is not the request's head: a proxy would not check it.
        self.headers = []

    def _stay_with_http(self, rest: bytes) -> None:
        """Goes on as if no other protocol had been offered; Java's client offers it with a body.

        The parser would take the body for the other protocol's: another one is shown the head again
        without the offer.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse_what_came(ApiError(ErrorCode.INVALID_HTTP))
            return
        version = self.parser.get_http_version().encode()
        headers = [
            b"%s: %s\r\n" % header
            for header in self.headers
            if header[0] not in (b"connection", b"upgrade", b"http2-settings")
        ]
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(headers))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _should_upgrade(self) -> bool:
        """Asked where another protocol is offered: such a request is not begun yet."""
        return True

    def _count_partial_head(self) -> None:
        if self._partial is not self.scope:
            self._partial = self.scope
            self._partial_bytes = 0  # some of the chunk may be another request's
        else:
            self._partial_bytes += self._chunk_bytes
        if self._partial_bytes > MOST_HEAD_BYTES:
            self._refuse_what_came(ApiError(ErrorCode.HEAD_TOO_LARGE))

    def _phase(self) -> Phase:
        cycle = self.cycle
        if self.flow.write_paused:
            return "reader"
        if cycle is None or cycle.response_complete:
            return "head" if cycle is None or self._has_begun() else "idle"
        if cycle.more_body and not self.pipeline:
            return "body"
        return "answer"

    def _look(self) -> None:
        """Once a second: whether the other end has had its time."""
        now = self.loop.time()
        self._watch = self.loop.call_later(self.looking_seconds, self._look)
        if self._refused_at is not None:
            if now >= self._refused_at + _LINGERING_SECONDS:
                self.transport.abort()
            return
        waiting_for = (self._phase(), self.cycle)
        if waiting_for != self._waiting_for:
            self._waiting_for, self._since = waiting_for, now
            return
        phase = waiting_for[0]
        settings = self.settings
        limit = settings.max_head_seconds if phase == "head" else settings.max_body_seconds
        if phase in ("answer", "idle") or now < self._since + limit:
            return
        has_come = phase == "body" or (phase == "head" and self._has_begun())
        if has_come and not self.transport.is_closing():
            self._refuse_what_came(ApiError(ErrorCode.REQUEST_TIMEOUT))
        else:
            self.transport.abort()

    def _has_begun(self) -> bool:
        """Whether a part of a head is there."""
        return self.scope is not None and "method" not in self.scope

    def _make_room(self) -> bool:
        """Ends some of those that have waited for a request the longest; whether there are any."""
        idle = [
            connection
            for connection in self.connections
            if isinstance(connection, BoundedProtocol)
            and connection is not self
            and connection._phase() in ("idle", "head")
        ]
        idle.sort(key=lambda connection: connection._since)
        most = max(1, self.settings.max_connections // _GIVING_WAY)
        for connection in idle[:most]:
            connection.transport.abort()
        return bool(idle)

    def _refuse_what_came(self, error: ApiError) -> None:
        """Refuses the request that is on its way; whole ones have their answers first."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not self.pipeline):
            if cycle is not None and not cycle.response_complete:
                if cycle.response_started:
                    self.transport.abort()
                    return
                cycle.disconnected = True
                cycle.message_event.set()
            self._refuse(error)
        elif cycle.more_body:
            self.transport.abort()
        else:
            self._is_deaf = True
            cycle.keep_alive = False

    def _refuse(self, error: ApiError) -> None:
        """Answers in the one error shape, outside of any request, and closes."""
        self._is_deaf = True
        if self.metrics is not None:
            self.metrics.count_refusal(error.code)
        body = orjson.dumps(error_body(error, None))
        headers = [
            *self.server_state.default_headers,
            *SECURITY_HEADERS,
            *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + body)
        # Closed with something unread, the other end might never see the answer.
        self._refused_at = self.loop.time()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


class _TooLargeHeadError(Exception):
    """Raised in the parser, so that it goes no further."""


def bounded_protocol(settings: Settings, metrics: Metrics | None = None) -> type[BoundedProtocol]:
    """The protocol with these settings, as uvicorn takes it; what it refuses is counted."""
    members = {"settings": settings, "metrics": metrics}
    return type("BoundedProtocol", (BoundedProtocol,), members)
