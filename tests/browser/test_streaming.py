"""Dots arrive while the answer is still being computed."""

import asyncio
import re
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, expect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.application import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.browser.chromium import wait_for_answer

pytestmark = pytest.mark.slow


class GatedStreams:
    """The application, but each part of a stream waits until the test lets it through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._permits = asyncio.Semaphore(0)

    def let_through(self, parts: int) -> None:
        assert self._loop is not None
        for _ in range(parts):
            self._loop.call_soon_threadsafe(self._permits.release)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._loop = asyncio.get_running_loop()

        async def send_gated(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("body"):
                await self._permits.acquire()
            await send(message)

        is_stream = scope["type"] == "http" and scope["path"].endswith("/stream")
        await self._app(scope, receive, send_gated if is_stream else send)


@pytest.fixture(scope="module")
def gated(one_thread: None, default_checkpoint: Checkpoint) -> Iterator[tuple[GatedStreams, str]]:
    gate = GatedStreams(create_app(Settings(), default_checkpoint))
    # Loggers, which all tests of this process share, stay as they are.
    config = uvicorn.Config(gate, host="127.0.0.1", port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield gate, f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


def test_dots_arrive_before_the_stream_ends(
    browser: Browser, gated: tuple[GatedStreams, str]
) -> None:
    gate, address = gated
    page = browser.new_page()
    page.goto(f"{address}/#seed=1")  # without one, an example would take part
    page.get_by_label("Open a picture").set_input_files("tests/samples/7.png")
    expect(page.locator("#rows")).to_have_attribute("aria-busy", "true")
    assert page.locator("circle").count() == 0
    for parts, passes in ((1, 5), (2, 15)):
        gate.let_through(parts)
        expect(page.locator("#line")).to_have_text(
            re.compile(rf"^{passes} of 50 passes so far; \d+ say 7\.$")
        )
        expect(page.locator("circle:not(.pale)")).to_have_count(passes)
        expect(page.locator("#headline")).to_have_text("Leaning to 7.")
    # Long after the playing would have ended, nothing more is shown than has arrived.
    page.wait_for_timeout(1200)
    assert page.locator("circle").count() == 15
    gate.let_through(7)
    wait_for_answer(page)
    assert page.locator("circle").count() == 50
    assert page.get_attribute("#rows", "aria-busy") == "false"
    page.close()
