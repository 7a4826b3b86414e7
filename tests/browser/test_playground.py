"""The playground as its visitors use it: draw, open, read."""

import re
import signal
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.answers import (
    assert_abstains,
    assert_reads,
    counts,
    dots,
    headline,
    send_file,
    shown_answer,
    try_example,
    vote_line,
)
from tests.browser.chromium import (
    FIVE_IN_PARTS,
    FOUR_IN_STROKES,
    LETTER_I,
    ONE_AND_TWO,
    SEVEN,
    draw,
    wait_for_answer,
)
from tests.browser.conftest import Seen
from tests.conftest import ROOT, SAMPLES, ServerStarter

pytestmark = pytest.mark.slow


# Drawing


def test_a_seven_drawn_with_the_mouse_is_read(page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")
    draw(page, SEVEN)
    expect(page.locator("#headline")).to_have_text("Looks like a 7 so far.")

    assert_reads(page, 7)
    assert sum(counts(page)) == 50
    assert dots(page) == counts(page)


def test_an_ambiguous_drawing_abstains(page: Page) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()

    answer = assert_abstains(page, "ambiguous")
    first, second = np.argsort(answer["mean"])[::-1][:2]
    assert {first, second} == {4, 9}
    assert headline(page) == f"I'm not sure: {first} or {second}?"
    assert page.inner_text("#line") == (
        f"{vote_line(answer)} I would rather not answer; a person should look."
    )
    assert dots(page) == answer["votes"]
    # The words and the colours name the same two.
    assert page.inner_text("tr.leader th") == str(first)
    assert page.inner_text("tr.rival th") == str(second)


def test_a_scribble_is_not_recognised(page: Page) -> None:
    page.get_by_role("button", name="Try a scribble").click()

    answer = assert_abstains(page, "unfamiliar")
    assert headline(page) == "I don't recognise this."
    votes = answer["votes"]
    assert page.inner_text("#line").startswith(
        f"The passes scatter over {np.count_nonzero(votes)} digits; the best, {answer['digit']}, "
        f"has {votes[answer['digit']]} of 50. It may not be a digit."
    )
    assert "No confidence is given" in page.inner_text("#doubt-text")


def test_the_other_examples_are_read_as_their_names_say(page: Page) -> None:
    try_example(page, "a 2")
    assert_reads(page, 2)
    try_example(page, "a 1 or a 7")
    mean = assert_abstains(page, "ambiguous")["mean"]
    assert set(np.argsort(mean)[-2:]) == {1, 7}


def test_of_two_digits_each_is_framed_and_can_be_chosen(page: Page) -> None:
    draw(page, ONE_AND_TWO)

    assert_abstains(page, "several_digits")
    assert headline(page) == "I see more than one digit."
    assert page.inner_text("#line") == (
        "I read one at a time: choose one by its frame. "
        "The grey dots are for the one with most ink."
    )
    # No digit looks like the answer.
    assert page.locator(":is(#votes, #chances, #rows) :is(.leader, .rival)").count() == 0
    expect(page.locator("#votes")).to_have_css("opacity", "0.45")
    assert page.inner_text("#doubt-text") == (
        "I abstain because there is more than one digit, not because of doubt. No confidence is "
        "given."
    )
    assert page.locator("#copy-link").is_disabled()
    pad = page.locator("#pad").bounding_box()
    frames = [frame.bounding_box() for frame in page.locator("#boxes button").all()]
    assert pad is not None
    assert len(frames) == len(ONE_AND_TWO)
    for stroke, frame in zip(ONE_AND_TWO, frames, strict=True):
        assert frame is not None
        for x, y in stroke:
            assert 0 <= pad["x"] + x / 100 * pad["width"] - frame["x"] <= frame["width"]
            assert 0 <= pad["y"] + y / 100 * pad["height"] - frame["y"] <= frame["height"]

    page.get_by_role("button", name="Read only this one, 2 of 2").click()
    expect(page.locator("#boxes button")).to_have_count(0)
    assert_reads(page, 2)
    page.click("#undo")
    assert_abstains(page, "several_digits")


@pytest.mark.parametrize(("strokes", "digit"), [(FOUR_IN_STROKES, 4), (FIVE_IN_PARTS, 5)])
def test_parts_of_one_digit_are_read_together(page: Page, strokes: Any, digit: int) -> None:
    draw(page, strokes)

    assert_reads(page, digit)


def test_a_dot_above_a_stroke_is_no_second_digit(page: Page) -> None:
    draw(page, LETTER_I)

    assert shown_answer(page)["decision"]["reason"] != "several_digits"
    assert page.locator("#boxes button").count() == 0


def test_undo_brings_back_what_clear_took(page: Page) -> None:
    draw(page, SEVEN)
    wait_for_answer(page)
    page.click("#clear")
    expect(page.locator("#headline")).to_have_text("Draw a digit.")
    assert dots(page) == [0] * 10

    page.click("#undo")
    assert_reads(page, 7)
    page.locator("#pad").focus()
    page.keyboard.press("Control+z")
    expect(page.locator("#headline")).to_have_text("Draw a digit.")
    expect(page.locator("#undo")).to_be_disabled()


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_the_page_opens_with_a_drawing_that_two_digits_share(page: Page, motion: Any) -> None:
    # What has a fragment is a link, which shows what it names.
    page.emulate_media(reduced_motion=motion)
    page.goto(page.url.split("#")[0])
    assert shown_answer(page)["digit"] in (4, 9)
    assert page.inner_text("#pad-hint") == "example: draw your own"
    assert "#" not in page.url
    # The next stroke begins a new sheet.
    draw(page, SEVEN)
    expect(page.locator("tr.leader th")).to_have_text("7")
    assert_reads(page, 7)


def test_the_keyboard_alone_draws_and_looks_into_passes(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the drawing pad"
    page.keyboard.press("Enter")
    while page.evaluate("document.activeElement.id") != "pad":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    # A seven: to the right, then down. A bare line is a one only for every other seed.
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    for key in ["ArrowRight"] * 9 + ["ArrowDown"] * 16:
        page.keyboard.press(key)
    page.keyboard.press(" ")
    page.keyboard.press("Escape")
    # What was drawn up to some key before may have been answered first.
    expect(page.locator("#headline")).to_have_text("It's a 7.")
    assert_reads(page, 7)

    # Nothing is a trap: everything that works with the mouse is reached, from the top to the end.
    usable = """[...document.querySelectorAll("a, button, input, select, summary, [tabindex='0']")]
      .filter((one) => !one.disabled && one.checkVisibility({ visibilityProperty: true }))"""
    last = page.evaluate(f"(window.usable = {usable}).length") - 1
    page.locator(".skip").focus()
    reached = [0]
    while last not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("usable.indexOf(document.activeElement)"))
        assert len(reached) <= last + 1
    assert sorted(reached) == list(range(last + 1))
    page.locator("#pass").focus()
    before = page.input_value("#pass")
    page.keyboard.press("ArrowRight")
    assert int(page.input_value("#pass")) == int(before) + 1
    assert page.inner_text("#pass-text").startswith(f"{int(before) + 1} of 50: this pass says ")


# Files


@pytest.mark.parametrize("way", ["open", "drop", "paste"])
def test_a_picture_is_opened_dropped_and_pasted(page: Page, way: str) -> None:
    if way == "open":
        page.set_input_files("#file", SAMPLES / "3.png")
    else:
        send_file(page, way, SAMPLES / "3.png")

    assert_reads(page, 3)


def test_a_file_that_is_no_picture_is_refused_in_words(
    page: Page, seen: Seen, tmp_path: Path
) -> None:
    (tmp_path / "digit.txt").write_text("seven")
    draw(page, SEVEN)
    wait_for_answer(page)
    send_file(page, "drop", tmp_path / "digit.txt")
    expect(page.locator("#headline")).to_have_text("I can't read that file.")
    assert page.inner_text("#line") == "PNG, JPEG, WebP, BMP, GIF and TIFF work."
    assert dots(page) == [0] * 10
    assert [complaint for complaint in seen.complaints if "415" not in complaint] == []
    seen.complaints.clear()  # the browser's own line about the status

    page.click("#undo")
    assert_reads(page, 7)


# A server in trouble


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def test_a_server_that_is_gone_and_comes_back(browser: Browser, servers: ServerStarter) -> None:
    port = str(free_port())
    first = servers.start("--port", port)
    page = browser.new_page()
    page.goto(first.address)
    draw(page, SEVEN)
    wait_for_answer(page)
    before = dots(page)
    assert sum(before) == 50
    # A connection that the page keeps open may outlive the server's patience.
    first.stop(signal.SIGTERM, within_seconds=20)

    page.click("#roll")
    expect(page.locator("#headline")).to_have_text("The server does not answer.")
    expect(page.locator("#line")).to_have_text(
        re.compile(r"What you see is from \d\d:\d\d:\d\d\. Trying again in [1-4]\xa0s\.")
    )
    expect(page.locator("#rows-title")).to_be_visible()
    assert dots(page) == before
    assert "is-old" in (page.get_attribute("body", "class") or "")
    assert page.text_content("#alert") == "The server does not answer."
    servers.start("--port", port)
    page.get_by_role("button", name="Try now").click()
    assert_reads(page, 7)
    assert "is-old" not in (page.get_attribute("body", "class") or "")
    assert page.text_content("#alert") == ""
    page.close()


def test_a_busy_server_is_asked_again(page: Page, seen: Seen) -> None:
    # Small questions are refused only under more load than a test makes: these are such answers.
    error = {"code": "overloaded", "message": "busy", "param": None, "request_id": "r"}
    headers = {"retry-after": "2", "retry-after-ms": "1200"}
    stream = "**/predict/mc/stream?*"
    page.route(
        stream, lambda route: route.fulfill(status=429, json={"error": error}, headers=headers)
    )
    draw(page, SEVEN)
    expect(page.locator("#headline")).to_have_text("The server is busy.")
    expect(page.locator("#line")).to_have_text(re.compile(r"Trying again in \d+\xa0s\."))
    page.unroute(stream)
    # It asks again by itself.
    assert_reads(page, 7)
    seen.complaints.clear()


def test_a_picture_without_ink_is_refused_in_words_and_shows_its_steps(
    page: Page, seen: Seen
) -> None:
    send_file(page, "paste", ROOT / "tests" / "browser" / "blank.png")
    expect(page.locator("#headline")).to_have_text("I can't find a digit.")
    assert "the image is uniform; send a digit" in page.inner_text("#line")
    page.get_by_role("button", name="Show how it was read").click()
    expect(page.locator("#pictures img").first).to_be_in_viewport()
    seen.complaints.clear()


def test_how_a_picture_was_read_is_shown_on_demand(page: Page) -> None:
    draw(page, SEVEN)
    wait_for_answer(page)
    pictures = page.locator("#pictures img")
    expect(pictures).to_have_count(0)

    page.get_by_text("How the picture was read").click()
    expect(pictures.first).to_be_visible()
    assert page.locator("#pictures li").all_inner_texts()[-1] == "digit"
    page.wait_for_function("[...document.images].every((image) => image.naturalWidth >= 28)")

    page.click("#clear")
    expect(pictures).to_have_count(0)
