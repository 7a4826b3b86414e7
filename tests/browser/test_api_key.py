"""The playground of a server that wants API keys."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from app.api.auth import key_line, make_key
from tests.browser.chromium import SEVEN, draw, wait_for_answer
from tests.conftest import RunningServer, ServerStarter

pytestmark = pytest.mark.slow

KEY = make_key()


@pytest.fixture(scope="module")
def guarded(servers: ServerStarter, tmp_path_factory: pytest.TempPathFactory) -> RunningServer:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(key_line(KEY, "playground"))
    return servers.start("--api-keys-file", str(file))


@pytest.fixture
def page(browser: Browser, guarded: RunningServer) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    opened.goto(f"{guarded.address}/#seed=1")
    yield opened
    opened.close()


def give(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.click("text=Use this key")


def test_it_asks_for_a_key_and_keeps_it_for_the_tab(page: Page) -> None:
    dialog = page.locator("#key-dialog")
    expect(dialog).to_be_visible()
    expect(page.locator("#key-wrong")).to_be_hidden()
    give(page, make_key())
    expect(page.locator("#key-wrong")).to_be_visible()
    give(page, KEY)
    expect(dialog).to_be_hidden()
    expect(page.locator("#model")).to_have_text(re.compile(r"Model \w{12}"))

    draw(page, SEVEN)
    wait_for_answer(page)
    command = page.text_content("#curl") or ""
    assert '"Authorization: Bearer $DROPSERVE_API_KEY"' in command
    assert KEY not in page.content()

    page.reload()
    expect(page.locator("#model")).to_have_text(re.compile(r"Model \w{12}"))
    expect(dialog).to_be_hidden()


def test_without_one_the_page_says_why_there_is_no_answer(page: Page) -> None:
    expect(page.locator("#key-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#key-dialog")).to_be_hidden()

    draw(page, SEVEN)

    expect(page.locator("#verdict")).to_contain_text("API key")
    expect(page.locator("#key-dialog")).to_be_hidden()


def test_the_docs_take_a_key(browser: Browser, guarded: RunningServer) -> None:
    docs = browser.new_page()
    docs.goto(f"{guarded.address}/docs")
    docs.click(".btn.authorize")
    docs.fill(".auth-container input", KEY)
    docs.click(".auth-btn-wrapper .authorize")
    docs.click(".btn-done")
    block = docs.locator(".opblock-get").filter(
        has=docs.locator('.opblock-summary-path[data-path="/model"]')
    )
    block.locator(".opblock-summary-control").click()
    block.locator("button.execute").click()

    live = block.locator(".live-responses-table .response .response-col_status").first
    expect(live).to_have_text("200")
    docs.close()
