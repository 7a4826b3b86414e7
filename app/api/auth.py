"""Who may ask: with API keys configured, everything but health and the pages needs one.

A key comes in one way only, `Authorization: Bearer KEY`. Addresses and bodies are kept in logs and
histories, so a key there is as good as none.
"""

from collections.abc import Iterable

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.answers import error_response
from app.api.api_keys import ApiKeys
from app.errors import ApiError, ErrorCode

# What load balancers ask, and what a browser needs before a person can give it a key: files that
# are the same for everyone. The description of the API is such a file, too.
OPEN_PATHS = frozenset(
    {
        "/health/live",
        "/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
        "/",
        "/playground.css",
        "/playground.js",
        "/docs",
        "/openapi.json",
    }
)
_OPEN_FOLDER = "/static/"
_SCHEME = b"bearer "


class AccessMiddleware:
    """Lets requests through that need no key or have one; answers the others with 401.

    Args:
        app: what they are let through to.
        keys: the keys.
        open_paths: what needs none, besides the pages' own files.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, open_paths: Iterable[str] = OPEN_PATHS) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application, or refuses."""
        if scope["type"] == "lifespan" or self._is_open(scope) or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        response = error_response(Request(scope), ApiError(ErrorCode.UNAUTHORIZED))
        await response(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        path: str = scope["state"]["path"]
        return path in self._open_paths or path.startswith(_OPEN_FOLDER)

    def _has_key(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # Of two, a proxy might have checked the other.
        if len(given) != 1 or given[0][: len(_SCHEME)].lower() != _SCHEME:
            return False
        return self._keys.admits(given[0][len(_SCHEME) :].strip())
