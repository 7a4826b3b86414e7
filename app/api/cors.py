"""Which foreign pages may ask from a browser: none, unless the settings name them."""

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.answers import error_response
from app.errors import ApiError, ErrorCode

_METHODS = ("GET", "POST")
_SENT = ("authorization", "content-type", "inference-header-content-length", "x-request-id")
_READ = ("inference-header-content-length", "retry-after", "x-request-id")


class CorsMiddleware(CORSMiddleware):
    """Starlette's, for what this API sends and reads; cookies play no part in it.

    Args:
        app: what may be asked.
        origins: of the pages; * is every page.
    """

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_SENT,
            expose_headers=_READ,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application; what no page asks goes straight to it, since looking costs time."""
        if scope["type"] == "http" and all(name != b"origin" for name, _ in scope["headers"]):
            await self.app(scope, receive, send)
        elif scope["type"] == "http" and _is_preflight(request := Request(scope)):
            response = self.preflight_response(request.headers)
            if response.status_code >= 400:  # Starlette's refusal is text
                response = error_response(request, ApiError(ErrorCode.PAGE_REFUSED))
            await response(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _is_preflight(request: Request) -> bool:
    return request.method == "OPTIONS" and "access-control-request-method" in request.headers
