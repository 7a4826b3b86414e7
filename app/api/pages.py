"""The playground: its page, style and script, compressed once, and the policy they run under."""

import gzip
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

_FOLDER = Path(__file__).parents[1] / "static" / "playground"

# Nothing foreign, nothing inline. Pictures that are opened are drawn from blob: addresses, and the
# page's icon is a data: address.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    # The browser keeps the files and asks each time whether they are still the same.
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+\.js)";\n', re.MULTILINE)

router = APIRouter(include_in_schema=False)


class _Asset:
    """A file as it is sent: as it is, or compressed to those who take that."""

    def __init__(self, content: str, media_type: str) -> None:
        self._plain = content.encode()
        self._zipped = gzip.compress(self._plain, 9, mtime=0)
        self._media_type = media_type
        self._tag = f'W/"{hashlib.sha256(self._plain).hexdigest()[:16]}"'

    def answer(self, request: Request) -> Response:
        """The file, or that the browser has it already."""
        headers = {**_HEADERS, "etag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = self._plain
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = self._zipped
            headers["content-encoding"] = "gzip"
        return Response(content, headers=headers, media_type=self._media_type)


def join_modules(folder: Path, entry: str) -> str:
    """A module and all that it imports as one script: one request instead of many.

    The files are ordinary modules. Joined in the order in which they need each other, they need no
    import and no export; their names at the outermost level must differ.
    """
    joined: dict[str, str] = {}

    def add(name: str) -> None:
        source = (folder / name).read_text(encoding="utf-8")
        for needed in _IMPORT.findall(source):
            if needed not in joined:
                add(needed)
        joined[name] = re.sub(r"^export ", "", _IMPORT.sub("", source), flags=re.MULTILINE)

    add(entry)
    return "\n".join(joined.values())


@cache
def _page() -> _Asset:
    return _Asset((_FOLDER / "index.html").read_text(encoding="utf-8"), "text/html")


@cache
def _style() -> _Asset:
    return _Asset((_FOLDER / "playground.css").read_text(encoding="utf-8"), "text/css")


@cache
def _script() -> _Asset:
    return _Asset(join_modules(_FOLDER, "page.js"), "text/javascript")


@router.get("/")
async def page(request: Request) -> Response:
    """The playground."""
    return _page().answer(request)


@router.get("/playground.css")
async def style(request: Request) -> Response:
    """Its style."""
    return _style().answer(request)


@router.get("/playground.js")
async def script(request: Request) -> Response:
    """Its modules, joined."""
    return _script().answer(request)
