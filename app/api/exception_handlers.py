"""Exceptions become answers of the one error shape, wherever they are raised."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.answers import error_response
from app.errors import ApiError, ErrorCode

Handlers = Mapping[type[Exception], Callable[[Request, Exception], Response | Awaitable[Response]]]

_CODES = {404: ErrorCode.NOT_FOUND, 405: ErrorCode.METHOD_NOT_ALLOWED, 503: ErrorCode.NOT_READY}

logger = logging.getLogger("dropserve")


class ExceptionAnswerer:
    """Answers an exception with the handler of its class; raises one that has no handler.

    As Starlette's ExceptionMiddleware does, whose layers would take a fifth of a refusal.
    """

    def __init__(self, handlers: Handlers) -> None:
        self._handlers = handlers

    async def __call__(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        found = (self._handlers[kind] for kind in type(error).__mro__ if kind in self._handlers)
        handle = next(found, _pass_on)
        answer = handle(Request(scope, receive), error)
        response = answer if isinstance(answer, Response) else await answer
        await response(scope, receive, send)


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request, error)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Translates what Starlette and FastAPI refuse by themselves."""
    assert isinstance(error, HTTPException)
    default = ErrorCode.INVALID_PARAMETER if error.status_code < 500 else ErrorCode.INTERNAL
    code = _CODES.get(error.status_code, default)
    message = headers = None
    if code is ErrorCode.METHOD_NOT_ALLOWED:
        headers = error.headers  # Allow
        if request.method == "PUT":
            message = "PUT is not taken; curl -T sends PUT, so use --data-binary @FILE instead"
    return error_response(request, ApiError(code, message, headers=headers))


async def _pass_on(request: Request, error: Exception) -> NoReturn:
    """Nobody reads an answer; the request context notes that the client went away."""
    raise error


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    logger.error("request %s failed", request.scope["state"]["request_id"], exc_info=error)
    return error_response(request, ErrorCode.INTERNAL())


HANDLERS: Handlers = {
    ApiError: _answer_api_error,
    HTTPException: _answer_http_exception,
    ClientDisconnect: _pass_on,
    Exception: _answer_unexpected,
}
