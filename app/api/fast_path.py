"""The application's stack, with a fast path around FastAPI's router for predictions.

Between a request and an endpoint, FastAPI has layers of middleware, routing and the solving of
dependencies, which take 17 % of a prediction. The endpoint of a direct route takes the bare request
and gets nothing from them, so the fast path finds it by the request's path and calls it. All else
is as for other routes: OpenAPI describes a direct route, middleware wraps it, and exceptions have
the same handlers.
"""

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.datastructures import State
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.exception_handlers import HANDLERS, ExceptionAnswerer
from app.api.middleware import RequestContextMiddleware
from app.api.routes import DirectRoute
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from app.telemetry.spans import Spans


class DirectApp(FastAPI):
    """A FastAPI application that serves its direct routes on the fast path.

    From the outside in, a request passes the request context, the middleware of `add_middleware`,
    the direct routes, and FastAPI's router. What a handler of `add_exception_handler` answers
    passes the same middleware on its way out, also for `Exception`; Starlette's own stack has that
    handler outermost. FastAPI's telemetry and its limit on bodies are left out: the request context
    and `app.api.receiving` do both.

    Args:
        metrics: counts the requests; None: they are not counted.
        access_log: writes a line for each request; None: there are no lines.
        spans: exports the requests of sampled traces; None: nothing is exported.
        options: FastAPI's.
    """

    def __init__(
        self,
        *,
        metrics: Metrics | None = None,
        access_log: AccessLog | None = None,
        spans: Spans | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        # Starlette's own looks its attributes up in Python, which took 3 % of a prediction.
        self.state = cast(State, SimpleNamespace())
        for kind, handler in HANDLERS.items():
            self.add_exception_handler(kind, handler)
        self._recorders = metrics, access_log, spans

    def build_middleware_stack(self) -> ASGIApp:
        # To Starlette, the status 500 means the handler of any exception.
        handlers = {
            Exception if key == 500 else key: handler
            for key, handler in self.exception_handlers.items()
        }
        app: ASGIApp = ExceptionMiddleware(AsyncExitStackMiddleware(self.router), handlers)
        answer_exception = ExceptionAnswerer(handlers)
        app = _FastPath(app, self.router.routes, answer_exception)
        for wrapper, args, options in reversed(self.user_middleware):
            app = wrapper(app, *args, **options)
        return RequestContextMiddleware(app, answer_exception, *self._recorders)


class _FastPath:
    """Calls the endpoints of direct routes; passes all other requests on to the router.

    Args:
        router: FastAPI's, with its exception handlers.
        routes: all routes; the direct ones are picked.
        answer_exception: answers what an endpoint raises.
    """

    def __init__(
        self, router: ASGIApp, routes: Iterable[BaseRoute], answer_exception: ExceptionAnswerer
    ) -> None:
        self._router = router
        self._answer_exception = answer_exception
        direct = [route for route in routes if isinstance(route, DirectRoute)]
        self._routes = {
            path: route
            for route in direct
            if not route.param_convertors
            for path in (route.path, f"{route.path}/")
        }
        self._patterns = [route for route in direct if route.param_convertors]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope.get("method")  # the lifespan has none
        route = self._find(scope) if method == "POST" else None
        if route is None:
            # FastAPI's GET routes refuse HEAD. The server leaves out the body of the answer.
            if method == "HEAD":
                scope = {**scope, "method": "GET"}
            await self._router(scope, receive, send)
            return
        scope["route"] = route  # as the router does
        try:
            response = await route.endpoint(Request(scope, receive, send))
        except Exception as error:
            await self._answer_exception(error, scope, receive, send)
        else:
            await response(scope, receive, send)

    def _find(self, scope: Scope) -> DirectRoute | None:
        path = scope["state"]["path"]
        if route := self._routes.get(path):
            return route
        for route in self._patterns:
            if match := route.path_regex.match(path):
                scope["path_params"] = match.groupdict()  # strings, as from the router
                return route
        return None
