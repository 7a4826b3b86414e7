"""Routes that FastAPI describes and Starlette serves."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """A route whose endpoint takes the bare request, and is called with it at once.

    FastAPI's own handler looks for dependencies first, and opens exit stacks for them: more than
    half of what a constant answer costs, and nothing that such an endpoint needs. The description
    of the API is the same. Exceptions are answered by the application's handlers, as ever.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self.app = serve_directly(endpoint)


def serve_directly(endpoint: Endpoint) -> ASGIApp:
    """The application that calls an endpoint with the bare request."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return serve
