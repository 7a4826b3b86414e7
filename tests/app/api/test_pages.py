"""How the pages and their files are sent."""

import re
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from app.api.pages import STATIC_DIR
from tests.conftest import assert_error, connect

PLAYGROUND = STATIC_DIR / "playground"
FILES = {
    "/": "text/html; charset=utf-8",
    "/docs": "text/html; charset=utf-8",
    "/static/playground/playground.css": "text/css; charset=utf-8",
    "/static/playground/page.js": "text/javascript; charset=utf-8",
    "/static/swagger-ui/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/static/swagger-ui/LICENSE": "text/plain; charset=utf-8",
    "/static/digits.png": "image/png",
}


@pytest.mark.parametrize("path", FILES)
async def test_a_file_comes_compressed_to_those_who_take_that(
    client: httpx.AsyncClient, path: str
) -> None:
    zipped = await client.get(path, headers={"accept-encoding": "gzip"})
    plain = await client.get(path, headers={"accept-encoding": "identity"})

    assert (zipped.status_code, plain.status_code) == (200, 200)
    assert zipped.headers["content-type"] == plain.headers["content-type"] == FILES[path]
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.content == plain.content
    assert int(plain.headers["content-length"]) == len(plain.content)
    if len(plain.content) > 1000 and FILES[path] != "image/png":
        assert int(zipped.headers["content-length"]) < len(plain.content) / 2
    assert zipped.headers["vary"] == plain.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize("path", FILES)
async def test_what_a_browser_has_is_not_sent_again(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
    other = await client.get(path, headers={"if-none-match": 'W/"0123456789abcdef"'})
    headed = await client.head(path)

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert other.status_code == 200
    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["etag"] == first.headers["etag"]


async def test_every_file_of_the_folder_is_sent_as_it_is(client: httpx.AsyncClient) -> None:
    files = [path for path in STATIC_DIR.rglob("*") if path.is_file()]

    assert len(files) > 20
    for path in files:
        response = await client.get(f"/static/{path.relative_to(STATIC_DIR).as_posix()}")
        assert response.content == path.read_bytes()


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "playground", "/docs.html", "./docs.html", "playground/../docs.html"]
)
async def test_no_other_name_is_a_file(client: httpx.AsyncClient, name: str) -> None:
    # The client itself would resolve the dots.
    path = f"/static/{name}".replace(".", "%2e") if "./" in name else f"/static/{name}"

    assert_error(await client.get(path), 404, "not_found")


async def test_a_page_names_only_files_that_there_are(app: FastAPI) -> None:
    for mounted_at in ("", "/digits"):
        outer = Starlette(routes=[Mount(mounted_at, app)]) if mounted_at else app
        async with connect(outer) as client:
            for page in ("/", "/docs"):
                html = (await client.get(mounted_at + page)).text
                names = re.findall(r'(?:src|href)="([^"#:]+)"', html)
                assert len(names) >= 4
                for name in names:
                    address = urljoin(mounted_at + page, name)
                    assert (await client.get(address)).status_code == 200, address


async def test_the_page_announces_every_module_and_the_modules_find_each_other() -> None:
    html = (PLAYGROUND / "index.html").read_text()
    announced = re.findall(r'<link rel="modulepreload" href="([^"]+)">', html)
    (entry,) = re.findall(r'<script type="module" src="([^"]+)"', html)
    modules = {path.name: path.read_text() for path in PLAYGROUND.glob("*.js")}

    # Else the browser would find a module only after it has read another one.
    assert sorted(PurePosixPath(path).name for path in [*announced, entry]) == sorted(modules)
    for source in modules.values():
        imported = re.findall(r'^import [^;]*? from "(.*)";$', source, re.MULTILINE)
        assert len(imported) == source.count("import {")
        assert {path.removeprefix("./") for path in imported} <= modules.keys()


# The page of the API's description


class Page(HTMLParser):
    """What a page loads, and what of it a Content-Security-Policy would not allow."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        for name, value in attrs:
            if name == "src" or (name == "href" and tag == "link"):
                self.loaded.append(value or "")
            elif name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")
            elif name in ("href", "action"):
                assert not (value or "").startswith("javascript:")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)


def test_the_page_reader_sees_what_is_inline() -> None:
    page = Page('<script src="a.js"></script><script>x()</script><p onclick="y()" style="z">')

    assert page.loaded == ["a.js"]
    assert page.inline == ["x()", "p onclick", "p style"]


TYPES = {".js": "text/javascript", ".css": "text/css"}


async def test_the_docs_page_loads_only_what_this_server_has(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    page = Page(response.text)

    assert page.inline == []
    origin = str(client.base_url)
    loaded = [urljoin(f"{origin}/docs", one) for one in page.loaded if one != "data:,"]
    assert len(loaded) >= 3
    for address in loaded:
        assert address.startswith(f"{origin}/")
        asset = await client.get(address)
        assert asset.status_code == 200, address
        assert asset.headers["content-type"].startswith(TYPES[Path(address).suffix])
        assert asset.content
        # A style sheet could load more.
        if address.endswith(".css"):
            found = re.findall(r"url\(\s*[\"']?([a-z]*:?)", asset.text)
            assert set(found) <= {"data:"}
            assert "@import" not in asset.text


async def test_the_docs_page_describes_this_server(client: httpx.AsyncClient) -> None:
    script = (await client.get("/static/docs.js")).text

    (address,) = re.findall(r'url: "([^"]+)"', script)
    description = await client.get(urljoin(f"{client.base_url}/docs", address))
    assert description.json()["info"]["title"] == "Dropserve"
    assert "validatorUrl: null" in script  # else a foreign host would learn of it
    assert "http" not in script


async def test_the_docs_page_has_a_policy_that_allows_nothing_foreign(
    client: httpx.AsyncClient,
) -> None:
    header = (await client.get("/docs")).headers["content-security-policy"]

    policy = {}
    for directive in header.split(";"):
        name, *sources = directive.split()
        policy[name] = sources
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == ["'self'"]
    assert policy["connect-src"] == ["'self'"]
    assert policy["base-uri"] == ["'none'"]
    assert policy["frame-ancestors"] == ["'none'"]
    allowed = {source for sources in policy.values() for source in sources}
    assert allowed <= {"'none'", "'self'", "data:"}


def test_swagger_ui_has_its_licence_next_to_it() -> None:
    folder = STATIC_DIR / "swagger-ui"

    assert (folder / "swagger-ui-bundle.js").is_file()
    licence = (folder / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "Version 2.0, January 2004" in licence
    assert "SmartBear" in (folder / "NOTICE").read_text()
    # The bundle's first line refers to it.
    assert (folder / "swagger-ui-bundle.js.LICENSE.txt").is_file()
