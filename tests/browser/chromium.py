"""A real Chromium for the tests and commands of this folder, and a hand that draws in it."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

Stroke = Sequence[tuple[float, float]]

# The first is the same engine without a browser's windows, and takes a fifth less time.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# As root there is no sandbox to be had; the rest keeps the browser from calling home.
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# Shares of the pad in hundredths.
SEVEN: tuple[Stroke, ...] = (((30, 24), (66, 22), (45, 82)),)
ONE_AND_TWO: tuple[Stroke, ...] = (
    ((28, 28), (28, 76)),
    ((50, 38), (58, 28), (68, 38), (50, 75), (72, 75)),
)
# Two parts that do not touch and are one character.
FIVE_IN_PARTS: tuple[Stroke, ...] = (
    ((40, 30), (38, 48), (56, 48), (64, 62), (54, 80), (36, 76)),
    ((47, 18), (68, 17)),
)
FOUR_IN_STROKES: tuple[Stroke, ...] = (((40, 20), (34, 50), (66, 52)), ((60, 34), (58, 82)))
LETTER_I: tuple[Stroke, ...] = (((50, 40), (50, 80)), ((50, 22), (50.5, 22.5)))
# Open at the top like a four, closed like a nine.
FOUR_OR_NINE: tuple[Stroke, ...] = (
    ((50, 20), (39, 28), (33, 41), (39, 51), (54, 49), (64, 40)),
    ((63, 19), (62, 36), (58, 59), (55, 82)),
)


def find_chromium() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def launch() -> Iterator[Browser]:
    """A headless browser; the caller has made sure that there is one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_OPTIONS)
        try:
            yield browser
        finally:
            browser.close()


def draw(page: Page, strokes: Sequence[Stroke]) -> None:
    """Draws with the mouse."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    for stroke in strokes:
        points = [
            (box["x"] + x / 100 * box["width"], box["y"] + y / 100 * box["height"])
            for x, y in stroke
        ]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point, steps=6)
        page.mouse.up()


def wait_for_answer(page: Page) -> None:
    """Waits until an answer has been played to its end and its passes can be looked into."""
    page.wait_for_selector("#play:enabled", timeout=30_000)
