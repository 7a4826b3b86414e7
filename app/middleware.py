"""What every request passes: its id, and the last line of defence against unexpected exceptions.

Pure ASGI: Starlette's BaseHTTPMiddleware costs a task per request.
"""

import itertools
import logging
import re
import secrets

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import InternalError
from app.responses import error_response

REQUEST_ID_HEADER = "x-request-id"
_HEADER_BYTES = REQUEST_ID_HEADER.encode()
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")

logger = logging.getLogger("dropserve")


def _given_id(scope: Scope) -> str | None:
    """The caller's id, if it is one."""
    for name, value in scope["headers"]:
        if name == _HEADER_BYTES and _VALID_ID.fullmatch(value):
            return str(value, "ascii")
    return None


class RequestContextMiddleware:
    """Gives each request an id and answers what nobody expected with a plain 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
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
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"].append(header)
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("request %s: the client went away", request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            if started:  # too late for another answer: let the server cut the connection
                raise
            await error_response(Request(scope), InternalError())(scope, receive, send_with_id)
