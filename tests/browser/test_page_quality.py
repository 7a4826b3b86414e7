"""Nothing foreign, nothing inline, no complaint; accessible, small, and nothing jumps."""

from importlib.resources import files
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chromium import SEVEN, draw, wait_for_answer
from tests.conftest import RunningServer

pytestmark = pytest.mark.slow

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
MOST_BYTES = 120_000
MOST_REQUESTS = 20


def axe_violations(page: Page) -> list[str]:
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    run = "axe.run({ resultTypes: ['violations'] }).then((result) => result.violations)"
    found: list[dict[str, Any]] = page.evaluate(run)
    return [f"{one['id']}: {[node['html'] for node in one['nodes']]}" for one in found]


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    browser: Browser, server: RunningServer, scheme: Any, width: int
) -> None:
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(server.address)
    expect(page.locator("#model")).to_contain_text("Model ")
    assert axe_violations(page) == []

    for name in ("a 4 or a 9", "a 7", "a scribble"):
        page.get_by_role("button", name=f"Try {name}").click()
        wait_for_answer(page)
        page.locator("summary").last.click()
        assert axe_violations(page) == []
    page.locator(".to-card").last.click()
    assert axe_violations(page) == []
    page.keyboard.press("Escape")
    page.evaluate("document.querySelector('#settings').open = true")
    page.fill("#passes", "0")
    page.keyboard.press("Tab")
    expect(page.locator("#wrong")).not_to_be_empty()
    assert axe_violations(page) == []
    context.close()


def test_axe_would_find_something(page: Page) -> None:
    page.evaluate("document.querySelector('#pad').removeAttribute('aria-label')")

    assert any("role-img-alt" in one for one in axe_violations(page))


def test_loading_takes_few_bytes_and_one_round_trip_after_the_page(
    browser: Browser, server: RunningServer
) -> None:
    page = browser.new_page()
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    sizes: list[int] = []
    started_by: dict[str, str] = {}

    def note(event: dict[str, Any]) -> None:
        started_by[event["request"]["url"].removeprefix(server.address)] = event["initiator"][
            "type"
        ]

    network.on("Network.requestWillBeSent", note)
    network.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(f"{server.address}/#seed=1")  # without one, an example asks for its answer
    expect(page.locator("#model")).to_contain_text("Model ")
    page.wait_for_load_state("networkidle")
    page.close()

    # Headers included.
    print(f"{len(sizes)} requests, {sum(sizes)} bytes")
    assert sum(sizes) <= MOST_BYTES, sizes
    assert len(sizes) <= MOST_REQUESTS
    # The page itself names every file, so that none waits until another one has been read.
    files = {path for path in started_by if path.startswith("/static/")}
    assert {path: started_by[path] for path in files} == dict.fromkeys(files, "parser")
    others = started_by.keys() - files
    assert {path for path in others if not path.startswith("data:")} == {
        "/",
        "/model",
        "/models",
    }


@pytest.mark.parametrize("width", [360, 768, 1024, 1440])
def test_nothing_moves_from_load_to_answer(
    browser: Browser, server: RunningServer, width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.add_init_script(
        """
        window.shifts = [];
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) {
            window.shifts.push([entry.value, entry.sources.map(({ node }) => node?.id ?? "")]);
          }
        }).observe({ type: "layout-shift", buffered: true });
        """
    )
    page.goto(server.address)
    draw(page, SEVEN)
    wait_for_answer(page)
    page.get_by_role("button", name="Try a scribble").click()  # has most to say
    wait_for_answer(page)
    page.wait_for_timeout(300)
    # Shifts within half a second of a click count here, too: nothing may move at all.
    assert page.evaluate("window.shifts") == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_all_that_can_be_used_is_seen_at_once_on_a_desk(page: Page) -> None:
    draw(page, SEVEN)
    wait_for_answer(page)

    for part in ("#why", "#one-pass", "#settings", "#share"):
        box = page.locator(part).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, part


def test_a_policy_forbids_what_is_foreign_or_inline(page: Page, server: RunningServer) -> None:
    response = httpx.get(server.address)
    policy = dict(
        one.strip().split(" ", 1) for one in response.headers["content-security-policy"].split(";")
    )

    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    # Styles that a script sets show up in the document, too; none stands in what is sent.
    assert "style=" not in response.text
    assert page.locator("style, script:not([src])").count() == 0
    handlers = page.evaluate(
        "[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())"
        ".filter((name) => name.startsWith('on'))"
    )
    assert handlers == []


def test_the_colours_follow_the_system_and_the_button(
    browser: Browser, server: RunningServer
) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(server.address)
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == "rgb(20, 24, 29)"
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate(background) == "rgb(251, 250, 247)"
    page.reload()
    assert page.evaluate(background) == "rgb(251, 250, 247)"
    context.close()


def test_without_motion_the_answer_stands_at_once(browser: Browser, server: RunningServer) -> None:
    page = browser.new_context(reduced_motion="reduce").new_page()
    page.goto(server.address)
    page.evaluate(
        """() => {
          window.headlines = [];
          const headline = document.querySelector("#headline");
          new MutationObserver(() => window.headlines.push(headline.textContent))
            .observe(headline, { childList: true });
        }"""
    )
    draw(page, SEVEN)
    wait_for_answer(page)

    assert not [text for text in page.evaluate("window.headlines") if text.startswith("Leaning")]
    assert page.locator("tr.leader th").inner_text() == "7"
    page.context.close()


def test_forced_colours_and_a_large_font_keep_the_page_whole(
    browser: Browser, server: RunningServer
) -> None:
    page = browser.new_context(
        forced_colors="active", viewport={"width": 360, "height": 740}
    ).new_page()
    page.goto(f"{server.address}/#seed=1")  # no example plays
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    page.locator("#pad").scroll_into_view_if_needed()
    draw(page, SEVEN)
    expect(page.locator("#headline")).to_have_text("It's a 7.")
    wait_for_answer(page)

    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.context.close()
