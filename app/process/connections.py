"""uvicorn's protocol with limits, so that no connection costs much, whatever its other end does.

uvicorn waits without a limit for a request that has begun, for the first one of a connection, and
for a client that does not read; it takes headers of any size, and answers with text what is no
HTTP. Here a timer of each connection checks once a second what it waits for, the next request
included, which costs a request nothing: uvicorn sets and cancels a timer for each.

It uses these insides of uvicorn, whose version is pinned for that: the parser's callbacks,
`on_response_complete` and `_should_upgrade`, which are overridden, and the state of a connection.
`scope`, `url` and `headers` belong to the headers that are being parsed; for `cycle` and `pipeline`
see `app.process.pipelining`. `_phase`, `_is_partial_head` and `_refuse_request` interpret that
state.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import httptools
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from app.api.answers import JsonResponse
from app.api.middleware import SECURITY_HEADERS
from app.api.routes import OPEN_ROUTES
from app.errors import ApiError, ErrorCode
from app.process.pipelining import PipeliningProtocol
from app.process.turns import Turns
from app.schemas import error_body
from app.settings import Settings
from app.telemetry.metrics import Metrics

MAX_HEADERS = 100
MAX_HEAD_BYTES = 32 * 1024
SMALL_BODY = 16 * 1024
# How long a refused client may take to read why, and to stop sending.
_LINGER_SECONDS = 2.0
# At the limit, a tenth of the connections may be closed at once, so that the search is rare; and
# for some time after one that found none there is no other.
_CLOSED_SHARE = 10
_SEARCH_SECONDS = 0.05
_CHUNKED = b"transfer-encoding: chunked\r\n"
_HEALTH = frozenset(route for route in OPEN_ROUTES if "/health/" in route)

# What a connection waits for: another request; request headers, those of the
# first request included; a request body; a client that reads; or the server's own answer.
Phase = Literal["idle", "head", "body", "reader", "answer"]
_IDLE = ("idle", "head")


class BoundedProtocol(PipeliningProtocol):
    """One connection; see `app.process.refusing` for the class that has the settings."""

    settings: Settings
    metrics: Metrics | None
    check_seconds = 1.0
    # A body must bring this many bytes per second, measured after the first seconds.
    least_rate = 1024
    least_rate_after_seconds = 5.0
    # Connections beyond the limit, the oldest first. Each has until the first check of its timer to
    # bring a request; another's end makes room for it only then.
    spare: ClassVar[dict["BoundedProtocol", None]]
    most_spare: ClassVar[int]
    turns: ClassVar[Turns]
    _next_searches: ClassVar[tuple[float, float]] = (0.0, 0.0)  # of `_make_room`
    _ignores_input = False
    _refused_at: float | None = None
    _chunk_bytes = 0
    _body_bytes = 0  # received since the latest head, with its chunk
    # The headers that are not complete yet, as their scope, and the size of their whole chunks.
    _partial: object = None
    _partial_bytes = 0
    _waiting: tuple[RequestResponseCycle, Any] | None = None  # a request that is not started
    _waits_for: tuple[Phase, RequestResponseCycle | None] = ("head", None)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Lets a connection beyond the limit wait for its request, in place of the oldest such."""
        super().connection_made(transport)
        self._answers = _Answers(self)
        self._waits_since = self.loop.time()
        self._timer = self.loop.call_later(self.check_seconds, self._check_timeouts)
        if len(self.connections) - len(self.spare) > self.settings.max_connections:
            self.spare[self] = None
            if len(self.spare) > self.most_spare:
                next(other for other in self.spare if other._phase() != "answer")._end_for_another()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        self.spare.pop(self, None)
        super().connection_lost(exc)
        # With these it would refer to itself, and wait for the garbage collector, as all do then.
        self.cycle = self._answers = self._waiting = None  # type: ignore[assignment]
        self._waits_for, self._ahead = ("idle", None), ()

    def _abort(self) -> None:
        self.spare.pop(self, None)
        super()._abort()

    def _feed(self, data: bytes) -> None:
        """Parses as uvicorn does, without its own answers and warnings."""
        if self._ignores_input:
            return
        self._chunk_bytes = len(data)
        self._body_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            code = cause.code if isinstance(cause, _RefusedError) else ErrorCode.INVALID_HTTP
            self._refuse_request(code)
        else:
            self._start_waiting()
            if not self._is_partial_head():
                return
            if self._partial is self.scope:
                self._partial_bytes += self._chunk_bytes
            else:  # a part of the chunk may be another request's
                self._partial, self._partial_bytes = self.scope, 0
            if self in self.spare and self._body_bytes > SMALL_BODY:
                self._refuse_request(ErrorCode.OVERLOADED)
            elif self._partial_bytes > MAX_HEAD_BYTES:
                self._refuse_request(ErrorCode.HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Does what uvicorn's does, up to a number of headers; the rest is not even parsed."""
        if len(self.headers) == MAX_HEADERS:
            raise _RefusedError(ErrorCode.HEAD_TOO_LARGE)
        # uvicorn's own lines: a call more for each header costs half a microsecond of a request.
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Refuses too large headers before the request's task is made."""
        # Headers within one small chunk are not worth counting.
        if self._chunk_bytes > MAX_HEAD_BYTES or self._partial is self.scope:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MAX_HEAD_BYTES:
                raise _RefusedError(ErrorCode.HEAD_TOO_LARGE)
        if self.parser.should_upgrade():
            return  # the parser stops here; see `_ignore_upgrade`
        super().on_headers_complete()
        is_old = self.scope["http_version"] == "1.0"
        self.cycle.transport = _Unchunked(self) if is_old else self._answers  # type: ignore[assignment]
        self._body_bytes = self._chunk_bytes
        # Trailers of a chunked body are not the request's headers: a proxy would not check them.
        self.headers = []

    def on_response_complete(self) -> None:
        """Does what uvicorn's does, but for its timer."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            self._start_waiting()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._waiting = cycle, app

    def _start_waiting(self) -> None:
        """Starts a request, once it is whole if the rest of its body is small.

        One that never comes then costs its connection and nothing else.
        """
        if self._waiting is None:
            return
        cycle = self._waiting[0]
        # Reading is paused where much of the body is here: the rest comes once that is taken.
        is_small = 0 < self._body_left <= SMALL_BODY and not self.flow.read_paused
        if cycle.more_body and is_small and not cycle.waiting_for_100_continue:
            return
        if self in self.spare and not self._is_admitted(cycle):
            return
        waiting, self._waiting = self._waiting, None
        start = partial(super()._start_asgi_task, *waiting)
        start() if cycle.scope["path"] in _HEALTH else self.turns.call(start)

    def _is_admitted(self, cycle: RequestResponseCycle) -> bool:
        """Whether a request beyond the limit of connections may start, for which others may end.

        A whole one need not wait. Where a body is still to come, it waits for those that are slow.
        """
        if cycle.scope["path"] in _HEALTH:
            return True
        if self._make_room(new_too=not cycle.more_body):
            del self.spare[self]
            return True
        if cycle.more_body and self._body_bytes <= SMALL_BODY:
            self.flow.pause_reading()
        else:
            self._waiting = None
            self._refuse(ErrorCode.OVERLOADED)
        return False

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1 where a client offers another protocol, as Java's does.

        The parser would take the request's body for the other protocol's, so a new parser gets the
        headers again, without the offer.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse_request(ErrorCode.INVALID_HTTP)
            return
        version = self.parser.get_http_version().encode()
        offer = (b"connection", b"upgrade", b"http2-settings")
        lines = [b"%s: %s\r\n" % header for header in self.headers if header[0] not in offer]
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(lines))
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + rest)

    def _should_upgrade(self) -> bool:
        """Asked only where a client offers another protocol; uvicorn must not begin a request."""
        return True

    def _is_partial_head(self) -> bool:
        return self.scope is not None and "method" not in self.scope

    def _phase(self) -> Phase:
        cycle = self.cycle
        if self.flow.write_paused:
            return "reader"
        if cycle is None or cycle.response_complete:
            return "head" if cycle is None or self._is_partial_head() else "idle"
        return "body" if cycle.more_body and not self.pipeline else "answer"

    def _observe(self, now: float) -> tuple[Phase, float]:
        """What the connection waits for, and the seconds since this was first seen."""
        phase = self._phase()
        if (phase, self.cycle) != self._waits_for:
            self._waits_for, self._waits_since = (phase, self.cycle), now
        return phase, now - self._waits_since

    def _check_timeouts(self) -> None:
        """Ends a connection whose other end has had its time."""
        now = self.loop.time()
        self._timer = self.loop.call_later(self.check_seconds, self._check_timeouts)
        if self._refused_at is not None:
            if now >= self._refused_at + _LINGER_SECONDS:
                self._abort()
            return
        if self.flow.read_paused and not self.transport.is_closing() and self._is_reset():
            self._abort()
            return
        settings, (phase, waited) = self.settings, self._observe(now)
        if self in self.spare and phase != "answer":
            self._end_spare(phase)
            return
        limit = settings.max_head_seconds if phase == "head" else settings.max_body_seconds
        if phase == "body" and self._body_bytes < self.least_rate * waited:
            limit = min(limit, self.least_rate_after_seconds)
        elif phase == "idle":
            limit = settings.keep_alive_seconds
        if phase == "answer" or waited < limit:
            return
        is_request_partial = phase == "body" or (phase == "head" and self._is_partial_head())
        if is_request_partial and not self.transport.is_closing():
            self._refuse_request(ErrorCode.REQUEST_TIMEOUT)
        elif phase == "idle":
            self.transport.close()
        else:
            self._abort()

    def _end_spare(self, phase: Phase) -> None:
        """Ends a connection beyond the limit that has had its time, or begins its request."""
        if self._waiting is not None and self._make_room(new_too=False):
            del self.spare[self]
            self.flow.resume_reading()
            self._start_waiting()
        elif phase == "body" or self._is_partial_head():
            self._refuse_request(ErrorCode.OVERLOADED)
        else:
            self._end_for_another()

    def _make_room(self, *, new_too: bool) -> bool:
        """Closes connections that wait for their clients; whether there is room for another then.

        First those that have been slow to send a body or to read an answer for a second, then those
        that have waited for a request as long, then both kinds of new ones if these may end: of
        each those that have asked for nothing, then the oldest.
        """
        now, protocol, most = self.loop.time(), type(self), self.settings.max_connections
        if len(self.connections) - len(self.spare) < most:
            return True
        if now < protocol._next_searches[new_too]:
            return False
        found: tuple[list[BoundedProtocol], ...] = ([], [], [], [])
        for other in self.connections:
            if isinstance(other, BoundedProtocol) and other not in self.spare:
                phase, waited = other._observe(now)
                is_new, is_idle = waited < 1.0, phase in _IDLE
                enough = 4 * self.least_rate * max(1.0, waited)
                is_slow = phase == "body" and other._body_bytes < enough
                if is_idle or is_slow or (phase == "reader" and not is_new):
                    found[2 * is_new + is_idle].append(other)
        closed = next(filter(None, found if new_too else found[:2]), [])
        closed.sort(key=lambda other: (other.cycle is not None, other._waits_since))
        for connection in closed[: max(1, most // _CLOSED_SHARE)]:
            connection._end_for_another()
        if not closed:
            again = now + _SEARCH_SECONDS
            protocol._next_searches = (again, again if new_too else protocol._next_searches[True])
        return bool(closed)

    def _end_for_another(self) -> None:
        """Ends it; counted as a refusal unless it has been refused, or was answered and rests."""
        is_refusal = self._waits_for[0] != "idle" and self._refused_at is None
        if self.metrics is not None and is_refusal:
            self.metrics.count_refusal(ErrorCode.OVERLOADED.text)
        self._abort()

    def _refuse_request(self, code: ErrorCode) -> None:
        """Refuses the request that is being received; whole ones before it are answered first."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._refuse(code)
        elif not cycle.more_body:
            self._ignores_input = True
            cycle.keep_alive = False
            self._start_waiting()
        elif self.pipeline or cycle.response_started:
            self._abort()
        else:
            self._give_up()
            self._refuse(code)

    def _refuse(self, code: ErrorCode) -> None:
        """Answers with an error outside of any request, and closes."""
        error = ApiError(code)
        if self.metrics is not None:
            self.metrics.count_refusal(error.code)
        response = JsonResponse(error_body(error, None), error.status, error.headers)
        headers = [*self.server_state.default_headers, *SECURITY_HEADERS, *response.raw_headers]
        headers.append((b"connection", b"close"))
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        status = httptools_impl.STATUS_LINE[error.status]
        self.transport.write(status + head + b"\r\n" + response.body)
        self._linger()

    def _linger(self) -> None:
        """Closes once the client has had the time to read its answer, and to stop sending.

        Closed with input unread, the kernel would reset the connection before that.
        """
        self._ignores_input = True
        self._refused_at = self.loop.time()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()


class _Answers:
    """The transport of the requests of a connection, which may be answered before they are read."""

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol
        self.write: Callable[[bytes], None] = protocol.transport.write
        self.is_closing = protocol.transport.is_closing

    def close(self) -> None:
        if not self.is_closing() and self._protocol.cycle.more_body:
            self._protocol._linger()
        else:
            self._protocol.transport.close()


class _Unchunked(_Answers):
    """For a client of HTTP/1.0, which knows no chunks: the connection's end ends the answer.

    uvicorn writes the headers of an answer at once, and so each chunk.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        super().__init__(protocol)
        self._is_chunked = False
        self.write = self._write_plain

    def _write_plain(self, data: bytes) -> None:
        if self._is_chunked:
            size, _, rest = data.partition(b"\r\n")
            data = rest[: int(size or b"0", 16)]
        elif data.startswith(b"HTTP/1.1 ") and _CHUNKED in data:
            self._is_chunked = True
            data = data.replace(_CHUNKED, b"")
        self._protocol.transport.write(data)


class _RefusedError(Exception):
    """Raised in a callback of the parser, which then stops."""

    def __init__(self, code: ErrorCode) -> None:
        self.code = code
