"""Routes that FastAPI describes, and that are answered before its stack of middleware.

FastAPI's own way to a handler, eight layers of middleware, routing and dependencies, takes longer
than a prediction. A direct route's endpoint takes the bare request and needs none of that, so it
is looked up by its path first; one whose path has parameters is found by its pattern. What the
application adds with `add_middleware` wraps it as it wraps every other route; the description of
the API is the same.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.answers import error_response
from app.errors import ApiError

Endpoint = Callable[[Request], Awaitable[Response]]


class DirectRoute(APIRoute):
    """A POST route whose endpoint takes the bare request.

    Exceptions are answered as everywhere: an `ApiError` in the one error shape, any other by the
    middleware.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        # For requests that come through the router after all: the application can be mounted.
        self.app = serve_directly(endpoint)


class DirectApp(FastAPI):
    """A FastAPI application that serves its direct routes directly."""

    def build_middleware_stack(self) -> ASGIApp:
        """The application's own middleware around the direct routes; for the rest, FastAPI's."""
        routes = [route for route in self.router.routes if isinstance(route, DirectRoute)]
        return _DirectStack(routes, self.user_middleware, super().build_middleware_stack())


class _DirectStack:
    def __init__(
        self, routes: Iterable[DirectRoute], middleware: Iterable[Middleware], framework: ASGIApp
    ) -> None:
        self._routes: dict[str, DirectRoute] = {}
        self._patterns: list[DirectRoute] = []
        for route in routes:
            if route.param_convertors:
                self._patterns.append(route)
            else:
                self._routes[route.path] = route
        self._framework = framework
        self._direct: ASGIApp = _serve_route
        for wrapper, args, options in reversed(list(middleware)):
            self._direct = wrapper(self._direct, *args, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Other methods are the router's to refuse; the lifespan has neither path nor method.
        route = self._find(scope) if scope.get("method") == "POST" else None
        if route is None:
            await self._framework(scope, receive, send)
            return
        scope["route"] = route  # as the router does
        await self._direct(scope, receive, send)

    def _find(self, scope: Scope) -> DirectRoute | None:
        path = scope["path"]
        if route := self._routes.get(path):
            return route
        for route in self._patterns:
            if match := route.path_regex.match(path):
                scope["path_params"] = match.groupdict()  # strings, as the router has them
                return route
        return None


async def _serve_route(scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await scope["route"].app(scope, receive, send)
    except ApiError as error:
        await error_response(Request(scope), error)(scope, receive, send)


def serve_directly(endpoint: Endpoint) -> ASGIApp:
    """The application that calls an endpoint with the bare request."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)

    return serve
