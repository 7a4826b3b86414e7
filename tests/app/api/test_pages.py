"""How the page, its style and its script are sent."""

import re
from pathlib import Path

import httpx
import pytest

from app.api.health import STATIC_DIR
from app.api.pages import join_modules

FOLDER = STATIC_DIR / "playground"
FILES = {"/": "text/html", "/playground.css": "text/css", "/playground.js": "text/javascript"}


@pytest.mark.parametrize("path", FILES)
async def test_a_file_comes_compressed_to_those_who_take_that(
    client: httpx.AsyncClient, path: str
) -> None:
    zipped = await client.get(path, headers={"accept-encoding": "gzip"})
    plain = await client.get(path, headers={"accept-encoding": "identity"})

    assert (zipped.status_code, plain.status_code) == (200, 200)
    assert zipped.headers["content-type"] == f"{FILES[path]}; charset=utf-8"
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.text == plain.text
    assert int(zipped.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert zipped.headers["vary"] == plain.headers["vary"] == "accept-encoding"


@pytest.mark.parametrize("path", FILES)
async def test_what_a_browser_has_is_not_sent_again(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
    other = await client.get(path, headers={"if-none-match": 'W/"0123456789abcdef"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert other.status_code == 200


async def test_the_page_names_only_files_that_there_are(client: httpx.AsyncClient) -> None:
    html = (await client.get("/")).text
    names = re.findall(r'(?:src|href)="([^"#:]+)"', html)

    assert {"playground.css", "playground.js", "docs", "model"} <= set(names)
    for name in names:
        assert (await client.get(f"/{name}")).status_code == 200, name


async def test_the_script_is_all_modules_joined(client: httpx.AsyncClient) -> None:
    script = (await client.get("/playground.js")).text

    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    for module in FOLDER.glob("*.js"):
        last = module.read_text().rstrip().splitlines()[-1]
        assert last in script
    names = re.findall(r"^(?:async )?(?:function\*?|const|let|class) (\w+)", script, re.MULTILINE)
    assert len(names) > 50
    assert len(set(names)) == len(names)


def test_modules_are_joined_in_the_order_in_which_they_need_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text(
        'import { b } from "./b.js";\nimport {\n  c,\n} from "./c.js";\nb(c);\n'
    )
    (tmp_path / "b.js").write_text('import { c } from "./c.js";\nexport function b() {}\n')
    (tmp_path / "c.js").write_text("export const c = 1;\n")

    assert join_modules(tmp_path, "a.js").split("\n\n") == [
        "const c = 1;",
        "function b() {}",
        "b(c);\n",
    ]
