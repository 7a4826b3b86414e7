"""The context of every request: its id, its record in metrics and log, and headers for browsers.

Both middlewares are plain ASGI: Starlette's BaseHTTPMiddleware costs a task per request.
"""

import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.answers import error_answer
from app.api.routes import path_within, route_label
from app.errors import ErrorCode
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from app.telemetry.request_record import CLIENT_GONE, RequestRecord, Timings
from app.telemetry.spans import Spans
from app.telemetry.trace_context import HEADER as TRACE_HEADER
from app.telemetry.trace_context import TraceContext, parse_traceparent

if TYPE_CHECKING:
    from app.api.exception_handlers import ExceptionAnswerer

REQUEST_ID_HEADER = "x-request-id"
_HEADER_BYTES = REQUEST_ID_HEADER.encode()
# A browser takes an answer for the type that it states, sends no other server its address, and,
# unless it is a page with a policy of its own, loads and runs nothing for it.
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
# How API keys begin, so that they can be recognised where they should not be.
KEY_PREFIX = "dropserve_"
# Request ids are logged, so an API key in the wrong header is not taken as one.
_VALID_ID = re.compile(rb"(?!%s)[A-Za-z0-9._-]{1,128}" % KEY_PREFIX.encode())

_NO_TIMINGS = Timings()

logger = logging.getLogger("dropserve")

_ID_HERE = "0" * 32  # as long as the ids


class Refusal(NamedTuple):
    """How requests are refused whose head is that of a refused one.

    Attributes:
        wait: takes the beginning of a body, and the size of the whole; milliseconds that the
            request would wait, or None: it is not refused, or has to be looked at.
        answer: takes these milliseconds, and the seconds that the request has taken, and records
            it; the headers and the body of the answer.
    """

    wait: Callable[[bytes, int], int | None]
    answer: Callable[[int, float], bytes]


class CorsMiddleware(CORSMiddleware):
    """Starlette's, but not for requests without an Origin: it would take 5 microseconds of each."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and all(name != b"origin" for name, _ in scope["headers"]):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class RequestContextMiddleware:
    """Gives each request an id and each answer its headers, and records how each request ends.

    Exceptions of the middleware behind it are answered here, those of routes further in.

    Args:
        app: the application behind it.
        answer_exception: answers with the application's exception handlers.
        metrics: counts the requests; None: they are not counted.
        access_log: writes a line for each request; None: there are no lines.
        spans: exports the requests of sampled traces; None: nothing is exported.
    """

    def __init__(
        self,
        app: ASGIApp,
        answer_exception: "ExceptionAnswerer",
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        spans: Spans | None = None,
    ) -> None:
        self.app = app
        self._answer_exception = answer_exception
        self._metrics = metrics
        self._access_log = access_log
        self._spans = spans
        # Unique without asking the system for randomness each time.
        self._prefix = secrets.token_hex(12)
        self._numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given_id, trace = _given_ids(scope)
        request_id = given_id or self._next_id()
        header = (_HEADER_BYTES, request_id.encode())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        if trace is not None:
            state["trace_id"] = trace.trace_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                given = dict(headers)
                headers += [one for one in SECURITY_HEADERS if one[0] not in given]
                headers.append(header)
                if (recheck := state.get("recheck")) is not None:
                    like = scope["method"], route, path, state.get("model")
                    state["refuse_like_this"] = partial(self._refusing, recheck, *like)
            await send(message)

        path = state["path"] = path_within(scope)  # the router changes the scope later
        route = route_label(path)
        if self._metrics is not None:
            self._metrics.begin_request()
        started = time.monotonic()
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("request %s: the client went away", request_id)
        except Exception as error:
            if status:  # too late for another answer: the server cuts the connection
                state["error_code"] = ErrorCode.INTERNAL.text
                logger.exception("request %s failed", request_id)
            else:
                await self._answer_exception(error, scope, receive, send_with_id)
        finally:
            ended = RequestRecord(
                request_id,
                scope["method"],
                route,
                status or CLIENT_GONE,
                state.get("error_code"),
                time.monotonic() - started,
                state.get("timings", _NO_TIMINGS),
                state.get("model"),
                None if trace is None else trace.trace_id,
            )
            if self._metrics is not None:
                self._metrics.end_request(ended)
            if self._access_log is not None:
                self._access_log.write(ended)
            if self._spans is not None and trace is not None and trace.is_sampled:
                self._spans.record(ended, trace)

    def _next_id(self) -> str:
        return f"{self._prefix}{next(self._numbers):08x}"

    def _refusing(
        self,
        recheck: Callable[[bytes, int], int | None],
        method: str,
        route: str,
        path: str,
        model: str | None,
    ) -> Refusal:
        """Of requests that have the head of a refused one."""
        code = ErrorCode.OVERLOADED
        like = error_answer({"request_id": _ID_HERE, "path": path}, code(headers={}))
        headers = [*like.raw_headers, *SECURITY_HEADERS, (_HEADER_BYTES, _ID_HERE.encode())]
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        parts = (head + b"\r\n" + like.body).split(_ID_HERE.encode())
        status = like.status_code

        def answer(wait: int, seconds: float) -> bytes:
            request_id = self._next_id()
            record = RequestRecord(
                request_id, method, route, status, code.text, seconds, _NO_TIMINGS, model
            )
            if self._metrics is not None:
                self._metrics.begin_request()
                self._metrics.end_request(record)
            if self._access_log is not None:
                self._access_log.write(record)
            retry = b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (-(-wait // 1000), wait)
            return retry + request_id.encode().join(parts)

        return Refusal(recheck, answer)


def _given_ids(scope: Scope) -> tuple[str | None, TraceContext | None]:
    """The client's own request id and its trace, as far as they are valid."""
    request_id = trace = None
    for name, value in scope["headers"]:
        if name == _HEADER_BYTES:
            if request_id is None and _VALID_ID.fullmatch(value):
                request_id = str(value, "ascii")
        elif name == TRACE_HEADER:
            trace = parse_traceparent(value)
    return request_id, trace
