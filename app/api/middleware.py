"""What every request passes: its id, its count, its line in the log, and headers for browsers.

Pure ASGI: Starlette's BaseHTTPMiddleware costs a task per request.
"""

import itertools
import logging
import re
import secrets
import time

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.answers import error_response
from app.api.api_keys import KEY_PREFIX
from app.api.routes import path_within, route_label
from app.errors import ApiError, ErrorCode
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from app.telemetry.request_record import CLIENT_GONE, RequestRecord, Timings

REQUEST_ID_HEADER = "x-request-id"
_HEADER_BYTES = REQUEST_ID_HEADER.encode()
# An answer is what it says it is, tells no other server where it was, and, unless it is a page with
# a policy of its own, loads nothing and runs nothing.
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
# Ids are written down everywhere, so an API key in the wrong header is none.
_VALID_ID = re.compile(rb"(?!%s)[A-Za-z0-9._-]{1,128}" % KEY_PREFIX.encode())

logger = logging.getLogger("dropserve")


def _given_id(scope: Scope) -> str | None:
    """The caller's id, if it is one."""
    for name, value in scope["headers"]:
        if name == _HEADER_BYTES and _VALID_ID.fullmatch(value):
            return str(value, "ascii")
    return None


class RequestContextMiddleware:
    """Gives each request an id and each answer its headers, and notes how each request ends.

    What nobody expected is answered with a plain 500.

    Args:
        app: what answers.
        metrics: counts requests; None: nobody does.
        access_log: writes a line for each; None: nobody does.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics | None = None, access_log: AccessLog | None = None
    ) -> None:
        self.app = app
        self._metrics = metrics
        self._access_log = access_log
        # Unique without asking the system for randomness each time.
        self._prefix = secrets.token_hex(12)
        self._numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the app; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _given_id(scope) or f"{self._prefix}{next(self._numbers):08x}"
        header = (_HEADER_BYTES, request_id.encode())
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        timings = state["times"] = Timings()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"]
                names = [name for name, _ in headers]
                headers += [one for one in SECURITY_HEADERS if one[0] not in names]
                headers.append(header)
            await send(message)

        path = state["path"] = path_within(scope)  # now, since the router changes the scope
        route = route_label(path)
        if self._metrics is not None:
            self._metrics.begin_request()
        started = time.monotonic()
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("request %s: the client went away", request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if status:  # too late for another answer: let the server cut the connection
                state["error_code"] = ErrorCode.INTERNAL.text
                raise
            await error_response(Request(scope), ApiError(ErrorCode.INTERNAL))(
                scope, receive, send_with_id
            )
        finally:
            record = RequestRecord(
                request_id,
                scope["method"],
                route,
                status or CLIENT_GONE,
                state.get("error_code"),
                time.monotonic() - started,
                timings,
            )
            if self._metrics is not None:
                self._metrics.end_request(record)
            if self._access_log is not None:
                self._access_log.write(record)
