"""API keys: without one, everything but health checks and pages is answered with 401.

A key is accepted in one place only, `Authorization: Bearer KEY`: addresses and bodies are kept in
logs and histories. The server has a file with the SHA-256 digest of each key. A plain digest is
enough, since a key is 256 random bits: nobody can guess one, or find it from its digest. For the
same reason a key is looked up in a set of digests. How long that takes may depend on the digest of
what was sent, which its sender cannot steer towards a known digest; and a digest gives no key.
"""

import logging
import re
import secrets
import time
from collections.abc import Container
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.answers import error_response
from app.api.middleware import KEY_PREFIX
from app.api.routes import ADMIN_ROUTES, OPEN_ROUTES, path_within, route_label
from app.errors import ErrorCode
from app.settings import SettingsError
from model.files import read_bounded

_KEY_BYTES = 32
_DIGEST = re.compile("[0-9a-fA-F]{64}")
_SCHEME = b"bearer "
_ADMIN_PATH = "/v2/repository/models/"
_CHECK_SECONDS = 1.0
# Of the file of digests: some ten thousand keys.
_MOST_BYTES = 2**20

logger = logging.getLogger("dropserve")


def make_key() -> str:
    """A new key: 256 bits from the system's random generator."""
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)


def key_line(key: str, name: str) -> str:
    """The key's line in the file of digests; the name of its owner follows the digest."""
    return f"{sha256(key.encode()).hexdigest()}  {name}".rstrip()


class ApiKeys:
    """The keys that a file admits; a changed file is read again within a second.

    A changed file that cannot be used, one that is empty or gone included, admits nobody until it
    can: who empties it wants to revoke the keys. The log says why, once.

    Args:
        path: the file. Each line is a digest, followed by any text; # begins a comment.

    Raises:
        SettingsError: the file cannot be read, has no keys, or has a line without a digest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] | None = _stamp(path)
        self._problem = ""
        self._digests = _read_digests(path)
        self._checked_at = time.monotonic()

    def admits(self, key: bytes) -> bool:
        if time.monotonic() >= self._checked_at + _CHECK_SECONDS:
            self._refresh()
        return sha256(key).digest() in self._digests

    def _refresh(self) -> None:
        self._checked_at = time.monotonic()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            self._digests, self._stamp, problem = _read_digests(self._path), stamp, ""
        except SettingsError as error:
            # Without a stamp the file is read again, whatever kept it from being read.
            self._digests, self._stamp, problem = frozenset(), None, str(error)
        if problem and problem != self._problem:
            logger.error("nobody has an API key that is admitted: %s", problem)
        elif not problem:
            logger.info("API keys: %s", len(self._digests))
        self._problem = problem


class ApiKeyMiddleware:
    """Passes on requests that have a known key or need none; answers the others with 401.

    Args:
        app: what is behind it.
        keys: of everyone; None: no key is required.
        open_routes: labels of the routes that need none.
        admin_keys: of those who load and unload models; no other key opens these routes, and
            these keys open no other. None: nobody can.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys | None,
        open_routes: Container[str] = OPEN_ROUTES,
        admin_keys: ApiKeys | None = None,
    ) -> None:
        self._app = app
        self._keys, self._admin_keys = keys, admin_keys
        self._open_routes = open_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] != "lifespan" and not self._is_allowed(scope):
            app = error_response(Request(scope), ErrorCode.UNAUTHORIZED())
        await app(scope, receive, send)

    def _is_allowed(self, scope: Scope) -> bool:
        path = path_within(scope)
        is_admin = path.startswith(_ADMIN_PATH) and route_label(path) in ADMIN_ROUTES
        if is_admin and self._admin_keys is not None:
            return _has_key(scope, self._admin_keys)
        if self._keys is None or _has_key(scope, self._keys):
            return True
        return route_label(path) in self._open_routes


def _has_key(scope: Scope, keys: ApiKeys) -> bool:
    given = [value for name, value in scope["headers"] if name == b"authorization"]
    # Of two headers, a proxy might have checked the other one.
    if len(given) != 1 or given[0][: len(_SCHEME)].lower() != _SCHEME:
        return False
    return keys.admits(given[0][len(_SCHEME) :].strip())


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes when the file does."""
    try:
        status = path.stat()
    except OSError:
        return ()
    # Permissions change the last of them only.
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns


def _read_digests(path: Path) -> frozenset[bytes]:
    hint = "dropserve new-key makes a key and its line"
    try:
        text = read_bounded(path, _MOST_BYTES).decode()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise SettingsError(f"cannot read the API keys in {path}: {reason}") from None
    digests = set()
    # Some editors begin a file with a byte order mark.
    for number, line in enumerate(text.replace("\ufeff", "").splitlines(), 1):
        for digest in line.partition("#")[0].split()[:1]:
            if not _DIGEST.fullmatch(digest):
                # The message does not repeat the line: it may be a key.
                raise SettingsError(
                    f"line {number} of {path} does not begin with a SHA-256 digest; {hint}"
                )
            digests.add(bytes.fromhex(digest))
    if not digests:
        raise SettingsError(f"there are no API keys in {path}; {hint}")
    return frozenset(digests)
