"""Pictures of the playground.

`python -m tests.browser.screenshots` makes the two that open the README, light and dark.
`python -m tests.browser.screenshots --states FOLDER` makes one of every state, in both colours, at
four widths, to be looked at; a line marks where the first screen ends. States that a drawing does
not reach by itself are posed: the server's answer is changed on its way to the page.
"""

import argparse
import json
import math
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from playwright.sync_api import Browser, FilePayload, FloatRect, Page, Route

from tests.browser.chromium import ONE_AND_TWO, SEVEN, draw, launch, wait_for_answer
from tests.conftest import SAMPLES, ServerStarter
from tests.samples.draw import draw_digit

FOLDER = Path(__file__).parent / "screenshots"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDTHS = {360: 740, 768: 1024, 1024: 768, 1440: 900}
STREAM = "**/predict/mc/stream?*"
PASSES = "**/predict/mc?*"
BLANK = Path(__file__).parent / "blank.png"
MARK_FIRST_SCREEN = """() => {
  const line = document.createElement("hr");
  Object.assign(line.style, {
    position: "absolute", top: `${innerHeight}px`, left: 0, width: "100%", border: 0,
    borderTop: "1px dashed magenta",
  });
  document.body.append(line);
}"""


def try_example(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Try {name}").click()
    wait_for_answer(page)


def draw_seven(page: Page) -> None:
    draw(page, SEVEN)
    wait_for_answer(page)


def pose_weak_seven(page: Page) -> None:
    """A seven that every pass finds likely and none certain, as one digit in 300 is."""
    passes = [[0.0] * 10 for _ in range(50)]
    for number, probs in enumerate(passes):
        probs[7] = 0.74 + 0.05 * math.sin(number)
        probs[1], probs[2] = 0.7 * (1 - probs[7]), 0.3 * (1 - probs[7])
    mean = [sum(probs) / 50 for probs in zip(*passes, strict=True)]
    doubt = -sum(share * math.log(share) for share in mean if share)
    changes: dict[str, Any] = {
        "mean": mean,
        "standard_error": [0.005 if share else 0 for share in mean],
        "confidence": mean[7],
        "predictive_entropy": doubt,
        "expected_entropy": doubt - 0.01,
        "mutual_information": 0.01,
        "decision": {
            "outcome": "abstain",
            "reason": "ambiguous",
            "measure": "predictive_entropy",
            "score": doubt,
            "threshold": 0.63,
        },
    }

    def change_stream(route: Route) -> None:
        body = route.fetch().text()
        changed = re.sub(
            r"^data: (.*)$",
            lambda found: "data: " + json.dumps({**json.loads(found[1]), **changes}),
            body,
            flags=re.MULTILINE,
        )
        route.fulfill(body=changed, content_type="text/event-stream")

    def change_passes(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "pass_probabilities": passes})

    page.route(STREAM, change_stream)
    page.route(PASSES, change_passes)
    try_example(page, "a 7")


def show_busy(page: Page) -> None:
    error = {"code": "overloaded", "message": "busy", "param": None}
    headers = {"retry-after": "2"}
    page.route(
        STREAM, lambda route: route.fulfill(status=429, json={"error": error}, headers=headers)
    )
    draw(page, SEVEN)
    page.wait_for_selector("#try-now:visible")


def show_gone(page: Page) -> None:
    draw_seven(page)
    page.route("**/predict/**", lambda route: route.abort())
    page.evaluate("document.querySelector('#roll').click()")  # may be folded away
    page.wait_for_selector("#try-now:visible")


def show_converging(page: Page) -> None:
    draw(page, SEVEN)
    page.locator("circle:not(.pale)").nth(10).wait_for()


def show_pass(page: Page) -> None:
    try_example(page, "a 4 or a 9")
    page.click("#forward")


def show_drawing(page: Page) -> None:
    draw(page, SEVEN)
    page.wait_for_timeout(200)


def show_several(page: Page) -> None:
    draw(page, ONE_AND_TWO)
    wait_for_answer(page)


def show_photo(page: Page) -> None:
    page.set_input_files("#file", SAMPLES / "3.png")
    wait_for_answer(page)


def show_careless_four(page: Page) -> None:
    """A few passes take it for a nine."""
    picture = BytesIO()
    draw_digit(4, jitter=0.07, seed=17).save(picture, "PNG")
    file: FilePayload = {
        "name": "four.png",
        "mimeType": "image/png",
        "buffer": picture.getvalue(),
    }
    page.set_input_files("#file", file)
    wait_for_answer(page)


def show_text(page: Page) -> None:
    draw_seven(page)
    page.locator("#as-text summary").click()


def show_bad_file(page: Page) -> None:
    file: FilePayload = {"name": "7.png", "mimeType": "image/png", "buffer": b"seven"}
    page.set_input_files("#file", file)
    page.get_by_text("I can't read that file.").first.wait_for()


def show_refused(page: Page) -> None:
    """A picture without a digit, and how it was read."""
    page.set_input_files("#file", BLANK)
    page.click("#show-steps")
    page.locator("#pictures img").last.wait_for()


def show_rate(page: Page, rate: float) -> None:
    try_example(page, "a 4 or a 9")
    page.locator("#rate").evaluate(
        "(slider, rate) => { slider.value = rate; slider.dispatchEvent(new Event('input')); "
        "slider.dispatchEvent(new Event('change')); }",
        rate,
    )
    page.locator("#badge:empty").wait_for(state="attached")
    wait_for_answer(page)


def show_wrong_setting(page: Page) -> None:
    draw_seven(page)
    page.evaluate("document.querySelector('#settings').open = true")
    page.fill("#passes", "5000")
    page.locator("#passes").blur()
    page.locator("#wrong:not(:empty)").wait_for()
    wait_for_answer(page)


def show_other_network(page: Page) -> None:
    page.select_option("#networks select", "mnist-plain")
    try_example(page, "the letter A")


def show_card(page: Page) -> None:
    draw_seven(page)
    page.locator(".to-card").last.click()


def show_how(page: Page) -> None:
    try_example(page, "a 4 or a 9")
    page.get_by_role("link", name="How it works").click()


def show_docs(page: Page) -> None:
    page.goto(page.url.partition("#")[0] + "docs")
    page.locator(".opblock").last.wait_for()


def show_docs_of_v2(page: Page) -> None:
    show_docs(page)
    block = page.locator(".opblock").filter(has_text="/v2/models/{model}/infer").first
    block.locator(".opblock-summary-control").click()
    block.locator("button.execute").wait_for()


STATES: dict[str, Callable[[Page], object]] = {
    "first": wait_for_answer,
    "empty": lambda page: page.wait_for_timeout(300),
    "drawing": show_drawing,
    "converging": show_converging,
    "certain": draw_seven,
    "fairly-sure": show_careless_four,
    "ambiguous": lambda page: try_example(page, "a 4 or a 9"),
    "agreed-but-weak": pose_weak_seven,
    "not-a-digit": lambda page: try_example(page, "a scribble"),
    "several-digits": show_several,
    "one-pass": show_pass,
    "photo": show_photo,
    "refused": show_refused,
    "server-gone": show_gone,
    "busy": show_busy,
    "bad-file": show_bad_file,
    "as-text": show_text,
    "rate-0": lambda page: show_rate(page, 0),
    "rate-0.6": lambda page: show_rate(page, 0.6),
    "other-network": show_other_network,
    "wrong-setting": show_wrong_setting,
    "card": show_card,
    "how": show_how,
    "docs": show_docs,
    "docs-v2": show_docs_of_v2,
}
# Of these only what is on the screen is of interest.
ON_SCREEN = {"card", "how", "docs", "docs-v2"}


def open_page(
    browser: Browser, address: str, scheme: Scheme, width: int, *, plays: bool = False
) -> Page:
    """Opens the page, empty unless it `plays` its example."""
    page = browser.new_page(
        color_scheme=scheme, viewport={"width": width, "height": WIDTHS.get(width, 900)}
    )
    page.goto(address if plays else f"{address}/#seed=1")
    page.wait_for_selector("#neurons rect")
    return page


def save_states(browser: Browser, address: str, folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for width in WIDTHS:
            for scheme in SCHEMES:
                page = open_page(browser, address, scheme, width, plays=name == "first")
                STATES[name](page)
                is_whole = name not in ON_SCREEN
                if is_whole:
                    page.evaluate(MARK_FIRST_SCREEN)
                path = folder / f"{name}-{width}-{scheme}.png"
                page.screenshot(path=path, full_page=is_whole, animations="disabled")
                page.close()


def save_readme_pictures(browser: Browser, address: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    for scheme in SCHEMES:
        page = open_page(browser, address, scheme, 1240)
        try_example(page, "a 4 or a 9")
        page.mouse.move(0, 0)
        bottom = page.locator("#why").bounding_box()
        assert bottom is not None
        height = bottom["y"] + bottom["height"] + 16
        clip: FloatRect = {"x": 0, "y": 0, "width": 1240, "height": height}
        picture = page.screenshot(clip=clip, animations="disabled")
        page.close()
        # A few dozen colours are all there are: a third of the bytes.
        with Image.open(BytesIO(picture)) as image:
            few = image.convert("RGB").quantize(128)
        few.save(FOLDER / f"playground-{scheme}.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=Path, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=STATES, default=list(STATES))
    options = parser.parse_args()
    servers = ServerStarter()
    try:
        address = servers.start().address
        with launch() as browser:
            if options.states is None:
                save_readme_pictures(browser, address)
            else:
                save_states(browser, address, options.states, options.only)
    finally:
        servers.end_all()


if __name__ == "__main__":
    main()
