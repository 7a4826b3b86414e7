"""The pages for browsers, the playground and the API docs, and the files that they load."""

import asyncio
import gzip
from functools import cache
from hashlib import sha256
from pathlib import Path

from fastapi import APIRouter, Request, Response

from app.errors import ErrorCode

STATIC_DIR = Path(__file__).parents[1] / "static"

# Nothing foreign is loaded, and no inline script runs. Both pages set styles from their scripts,
# which `style-src` allows, and have icons at data: addresses.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' %s; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_PLAYGROUND_POLICY = _POLICY % "blob: data:"  # pictures that a person opens are blob: addresses
_DOCS_POLICY = _POLICY % "data:"
# Not the system's table of types: a script of another type would not run.
_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".png": "image/png",
}

router = APIRouter(include_in_schema=False)


class _StaticFile:
    """A file in memory, compressed once.

    Starlette's StaticFiles and GZipMiddleware compress a file each time it is sent: 60 ms of the
    event loop for Swagger UI, for anyone who asks.
    """

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._compressed = gzip.compress(self._content, mtime=0)
        self._media_type = _MEDIA_TYPES.get(path.suffix, "text/plain")
        self._etag = f'W/"{sha256(self._content).hexdigest()[:16]}"'

    def answer(self, request: Request, headers: dict[str, str]) -> Response:
        """The file, or 304 if the browser has it already."""
        headers = {
            **headers,
            "etag": self._etag,
            "cache-control": "no-cache",  # the browser keeps the file, and asks whether it changed
            "vary": "accept-encoding",
        }
        if self._etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = self._content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = self._compressed
            headers["content-encoding"] = "gzip"
        return Response(content, headers=headers, media_type=self._media_type)


@cache
def _names() -> frozenset[str]:
    """The names that can be asked for: a path that is none of them never reaches the disk."""
    files = (path for path in STATIC_DIR.rglob("*") if path.is_file())
    return frozenset(path.relative_to(STATIC_DIR).as_posix() for path in files)


_files: dict[str, _StaticFile] = {}


async def _answer_file(request: Request, name: str, policy: str | None = None) -> Response:
    if name not in _names():
        raise ErrorCode.NOT_FOUND()
    if name not in _files:
        _files[name] = await asyncio.to_thread(_StaticFile, STATIC_DIR / name)
    headers = {} if policy is None else {"content-security-policy": policy}
    return _files[name].answer(request, headers)


@router.get("/")
async def playground(request: Request) -> Response:
    return await _answer_file(request, "playground/index.html", _PLAYGROUND_POLICY)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Swagger UI."""
    return await _answer_file(request, "docs.html", _DOCS_POLICY)


@router.get("/static/{name:path}")
async def static_file(request: Request) -> Response:
    return await _answer_file(request, request.path_params["name"])
