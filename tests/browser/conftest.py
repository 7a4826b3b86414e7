"""Pages in a real Chromium; without one the tests of this folder are skipped."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from tests.browser.chromium import NAMES, find_chromium, launch
from tests.conftest import RunningServer

pytest.register_assert_rewrite("tests.browser.answers")

# A busy machine is slow; what comes at all comes in this time.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Of a module and not of the session: while Playwright runs, no other event loop can.
    if find_chromium() is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with launch() as running:
        yield running


@dataclass
class Seen:
    """What a page did that nobody sees.

    Attributes:
        complaints: errors and warnings in the console, and uncaught exceptions.
        requests: the addresses it asked for.
    """

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._note)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _note(self, request: Request) -> None:
        if not re.match(r"(data|blob):", request.url):
            self.requests.append(request.url)


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def page(browser: Browser, server: RunningServer, seen: Seen) -> Iterator[Page]:
    """The playground, open; it must not complain unless a test expects that."""
    context = browser.new_context(
        viewport={"width": 1440, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
        reduced_motion="reduce",  # dots fall for a second, which few tests need to see
    )
    opened = context.new_page()
    seen.watch(opened)
    # A drawn seed would make each run another.
    opened.goto(f"{server.address}/#seed=1")
    expect(opened.locator("#seed")).to_have_value("1")
    yield opened
    context.close()
    assert seen.complaints == []
    assert {url for url in seen.requests if not url.startswith(f"{server.address}/")} == set()


@pytest.fixture(scope="module")
def words(browser: Browser, server: RunningServer) -> Iterator[Page]:
    """A page from which the playground's modules can be imported one by one."""
    opened = browser.new_page()
    opened.goto(server.address)
    yield opened
    opened.close()
