"""The playground as its visitors use it: draw, open, read, look into passes, take away."""

import base64
import json
import math
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import (
    FIVE_IN_PARTS,
    FOUR_IN_STROKES,
    FOUR_OR_NINE,
    LETTER_I,
    ONE_AND_TWO,
    SEVEN,
    draw,
    wait_for_answer,
)
from tests.browser.conftest import Seen
from tests.conftest import ROOT, SAMPLES, RunningServer, ServerStarter

pytestmark = pytest.mark.slow

HIDDEN = 512 + 256 + 128
FILE_TYPES = {".png": "image/png", ".txt": "text/plain"}


def headline(page: Page) -> str:
    return page.inner_text("#headline")


def answer_text(page: Page) -> str:
    """The answer as the page shows it to those who want the JSON."""
    expect(page.locator("#answer")).not_to_be_empty()
    return page.text_content("#answer") or ""


def shown_answer(page: Page) -> dict[str, Any]:
    """The same, read; the page has shown it to its end."""
    wait_for_answer(page)
    answer: dict[str, Any] = json.loads(answer_text(page))
    return answer


def counts(page: Page) -> list[int]:
    """The number at each row."""
    return [int(text or 0) for text in page.locator("#rows .count").all_text_contents()]


def dots(page: Page) -> list[int]:
    return [row.locator("circle").count() for row in page.locator("#rows tbody tr").all()]


def send_file(page: Page, kind: str, path: Path) -> None:
    """Drops a file on the page, or pastes it."""
    page.evaluate(
        """([kind, base64, name, type]) => {
          const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
          const files = new DataTransfer();
          files.items.add(new File([bytes], name, { type }));
          const event = kind === "drop"
            ? new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: files, bubbles: true });
          document.body.dispatchEvent(event);
        }""",
        [kind, base64.b64encode(path.read_bytes()).decode(), path.name, FILE_TYPES[path.suffix]],
    )


def color_of(element: Locator) -> str:
    color: str = element.evaluate("(element) => getComputedStyle(element).color")
    return color


def vote_line(answer: dict[str, Any]) -> str:
    """How the passes voted: for the answer's digit, and for the one that comes next."""
    votes, digit = answer["votes"], answer["digit"]
    second = max((other for other in range(10) if other != digit), key=votes.__getitem__)
    verb = "says" if votes[second] == 1 else "say"
    rest = f", {votes[second]} {verb} {second}" if votes[second] else ""
    return f"{votes[digit]} of {answer['passes']} passes say {digit}{rest}."


def assert_reads(page: Page, digit: int) -> None:
    """Asserts that the server stands by this digit, and that the page says so."""
    answer = shown_answer(page)
    decision = answer["decision"]
    assert (answer["digit"], decision["outcome"], decision["reason"]) == (digit, "accept", None)
    assert headline(page) == f"It's a {digit}."
    is_unanimous = answer["votes"][digit] == answer["passes"]
    assert page.inner_text("#line") == (
        f"All {answer['passes']} passes agree."
        if is_unanimous
        else f"{vote_line(answer)} That is within my limit for doubt."
    )
    assert page.inner_text("#badge") == "ANSWERS"
    assert counts(page) == answer["votes"]


def assert_abstains(page: Page, reason: str) -> dict[str, Any]:
    """Asserts that the server would rather not answer, for this reason; returns its answer."""
    answer = shown_answer(page)
    decision = answer["decision"]
    assert (decision["outcome"], decision["reason"]) == ("abstain", reason)
    assert page.inner_text("#badge") == "ABSTAINS"
    assert counts(page) == answer["votes"]
    return answer


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
    share = max(answer["mean"])
    assert share < 0.5
    assert page.inner_text("#line").startswith(
        f"The passes find no digit likely: even the best gets only {100 * share:.0f} % on average."
    )
    # No row stands out where the passes find nothing.
    assert page.locator("#rows tbody tr:is(.leader, .rival)").count() == 0
    assert "confidence in the best digit: 0.1" in page.inner_text("#doubt-text")
    assert "this copy leans to" in page.inner_text("#pass-text")


def test_of_two_digits_each_is_framed_and_can_be_chosen(page: Page) -> None:
    draw(page, ONE_AND_TWO)

    assert_abstains(page, "several_digits")
    assert headline(page) == "I see more than one digit."
    assert page.inner_text("#line") == "I read one at a time: choose one, or erase all but one."
    # No row looks like the answer.
    other = page.locator("#rows tr.other .count").first
    for row in page.locator("#rows tbody tr").all():
        expect(row.locator(".count")).to_have_css("color", color_of(other))
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
    page.click("#undo")
    expect(page.locator("#headline")).to_have_text("Draw a digit.")
    expect(page.locator("#undo")).to_be_disabled()


def test_the_page_plays_an_example_if_nobody_touches_it(page: Page) -> None:
    # What has a fragment is a link, which shows what it names. An example moves, or is not played.
    page.emulate_media(reduced_motion="no-preference")
    page.goto(page.url.split("#")[0])
    assert shown_answer(page)["digit"] in (4, 9)
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

    # Nothing is a trap: everything that works with the mouse is reached.
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "pass":
            break
    assert {"undo", "clear", "file", "back", "play", "forward"} < set(reached)
    before = page.input_value("#pass")
    page.keyboard.press("ArrowRight")
    assert int(page.input_value("#pass")) == int(before) + 1
    assert page.inner_text("#pass-text").startswith(f"{int(before) + 1} of 50: this copy says ")


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


# Passes


def asked_again(page: Page, server: RunningServer, **more: Any) -> dict[str, Any]:
    """The page's question to the API, by its own link."""
    command = page.text_content("#curl") or ""
    found = re.search(r"printf %s '([^']+)'.*predict/mc\?([^']+)'", command)
    assert found is not None
    response = httpx.post(
        f"{server.address}/predict/mc?{found[2]}",
        params={**dict(httpx.QueryParams(found[2])), **more},
        content=base64.b64decode(found[1]),
    )
    answer: dict[str, Any] = response.raise_for_status().json()
    return answer


def squares_off(page: Page) -> list[bool]:
    off: list[bool] = page.evaluate(
        "[...document.querySelectorAll('#neurons rect')].map((one) => one.matches('.off'))"
    )
    return off


def test_a_chosen_dot_shows_the_neurons_that_its_pass_dropped(
    page: Page, server: RunningServer
) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    answer_text(page)
    api = asked_again(page, server, return_passes="true")
    choices = np.argmax(api["pass_probabilities"], axis=1)

    last = [int(np.sum(choices == digit)) - 1 for digit in range(10)]
    assert min(last[4], last[9]) > 0
    for digit, number in ((9, last[9]), (4, 0), (4, last[4])):
        row = page.locator("#rows tbody tr").nth(digit)
        box = row.locator("circle").nth(number).bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        index = int(np.flatnonzero(choices == digit)[number])
        bits = np.unpackbits(np.frombuffer(base64.b64decode(api["dropped"][index]), np.uint8))
        assert squares_off(page) == bits[:HIDDEN].astype(bool).tolist()
        assert page.input_value("#pass") == str(index + 1)
        says = f"{index + 1} of 50: this copy says {digit} ("
        assert page.inner_text("#pass-text").startswith(says)
        assert page.locator("#rows tr.chosen th").inner_text() == str(digit)
        # Its ten probabilities stand where they belong.
        places = page.locator("#rows .mark").evaluate_all(
            "marks => marks.map((one) => parseFloat(one.parentNode.getAttribute('x')) / 100)"
        )
        assert places == pytest.approx(api["pass_probabilities"][index], abs=1e-6)


def test_play_steps_through_the_passes(page: Page) -> None:
    draw(page, SEVEN)
    wait_for_answer(page)
    page.click("#play")
    expect(page.locator("#pass")).not_to_have_value("1")
    page.get_by_role("button", name="Pause").click()
    page.click("#back")
    stopped = page.input_value("#pass")

    assert page.inner_text("#play") == "Play"
    assert page.inner_text("#pass-text").startswith(f"{stopped} of 50")


def test_more_passes_than_dots_are_counted_in_tens(page: Page) -> None:
    page.fill("#passes", "1000")
    page.get_by_role("button", name="Try a 4 or a 9").click()
    votes = shown_answer(page)["votes"]

    assert sum(votes) == 1000
    assert counts(page) == votes
    # A class that a single pass chose has a dot, too.
    assert dots(page) == [math.ceil(count / 10) for count in votes]
    assert page.inner_text("#legend").startswith("one dot = 10 passes")


def test_what_the_page_says_about_dropout_comes_from_the_model(
    page: Page, server: RunningServer
) -> None:
    model = httpx.get(f"{server.address}/model").json()
    (rate,) = set(model["config"]["dropout_rates"])
    expect(page.locator("#model")).to_have_text(f"Model {model['version']}")
    # As a share of one where it is one: 0.199 is one in five, 0.398 is 40 %.
    is_one_in = abs(1 / rate - round(1 / rate)) < 0.1
    share = f"1 in {1 / rate:.0f} neurons" if is_one_in else f"{100 * rate:.0f} % of the neurons"
    assert page.inner_text("#legend") == (
        f"one dot = one pass in the row of its best digit, a random {share} switched off"
    )


# The numbers


def test_the_words_about_doubt_hold_the_answers_numbers(page: Page) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    answer = json.loads(answer_text(page))
    words = page.inner_text("#doubt-text")

    assert words.startswith(f"Total doubt {answer['predictive_entropy']:.2f} (0 is none, 2.30 is")
    assert f"my limit is {answer['decision']['threshold']:.2f})" in words
    assert f"{answer['expected_entropy']:.2f} because the drawing is unclear" in words
    assert f"{answer['mutual_information']:.2f} because the copies disagree" in words


def test_the_rows_are_a_table_with_numbers(page: Page) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    answer = json.loads(answer_text(page))

    for digit, row in enumerate(page.get_by_role("table").locator("tbody tr").all()):
        name, _, count, average, band = row.locator("th, td").all_text_contents()
        assert (name, count) == (str(digit), str(answer["votes"][digit]))
        assert float(average) == pytest.approx(answer["mean"][digit], abs=6e-4)
        low, high = map(float, band.split(" to "))
        assert 0 <= low <= high <= 1


def test_the_verdict_is_spoken_once(page: Page) -> None:
    page.evaluate(
        """() => {
          window.spoken = [];
          const status = document.querySelector("#status");
          new MutationObserver(() => window.spoken.push(status.textContent))
            .observe(status, { childList: true });
        }"""
    )
    draw(page, SEVEN)
    wait_for_answer(page)
    page.wait_for_timeout(700)

    said = [page.text_content(f"#{name}") for name in ("headline", "badge", "line")]
    assert page.evaluate("window.spoken") == [" ".join(text for text in said if text)]
    assert page.get_attribute("#pad", "aria-label") == f"Drawing pad. {said[0]}"


# Settings, link and command


def test_roll_again_changes_the_seed_and_nothing_else(page: Page) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    first = json.loads(answer_text(page))
    page.click("#roll")
    wait_for_answer(page)
    second = json.loads(answer_text(page))

    assert page.input_value("#seed") == str(second["seed"]) != str(first["seed"])
    assert second["mean"] != first["mean"]
    # Two estimates of the same ten numbers, each known to a standard error.
    error = math.hypot(max(first["standard_error"]), max(second["standard_error"]))
    assert second["mean"] == pytest.approx(first["mean"], abs=6 * error)


def test_the_seed_stays_while_the_pen_moves(page: Page) -> None:
    seed = page.input_value("#seed")
    draw(page, SEVEN)
    wait_for_answer(page)

    assert page.input_value("#seed") == seed
    assert json.loads(answer_text(page))["seed"] == int(seed)


def test_stopping_early_is_asked_for_and_shown(page: Page) -> None:
    # At most 0.02 is reached after 625 passes whatever they say: no share varies by more than 0.5.
    page.fill("#passes", "1000")
    page.select_option("#within", "0.02")
    draw(page, SEVEN)
    answer = shown_answer(page)

    assert answer["stop_reason"] == "standard_error"
    assert max(answer["standard_error"]) <= 0.02
    assert sum(counts(page)) == answer["passes"] < 1000
    page.select_option("#estimator", "balanced")
    expect(page.locator("#within")).to_be_disabled()
    assert shown_answer(page)["passes"] == 1000


def test_an_impossible_setting_is_explained(page: Page, seen: Seen) -> None:
    draw(page, SEVEN)
    wait_for_answer(page)
    page.fill("#passes", "5000")
    page.keyboard.press("Enter")
    page.locator("#passes").blur()
    expect(page.locator("#headline")).to_have_text("That did not work.")
    assert page.inner_text("#line") == "Passes must be a whole number from 1 to 1000."
    seen.complaints.clear()

    page.fill("#passes", "20")
    page.locator("#passes").blur()
    wait_for_answer(page)
    assert sum(counts(page)) == 20


def test_a_copied_link_restores_the_answer(page: Page) -> None:
    page.fill("#passes", "30")
    page.fill("#seed", "12345")
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    text = answer_text(page)
    page.click("#copy-link")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url

    other = page.context.new_page()
    other.goto(link)
    wait_for_answer(other)
    assert answer_text(other) == text
    assert headline(other) == headline(page)
    assert other.input_value("#passes") == "30"
    assert other.input_value("#seed") == "12345"
    # A link pasted into an open page works, too.
    page.click("#clear")
    page.fill("#passes", "10")
    page.evaluate("link => { location.href = link; }", link.replace("passes=30", "passes=40"))
    wait_for_answer(page)
    assert json.loads(answer_text(page))["passes"] == 40


def test_the_copied_command_prints_the_pages_answer(page: Page, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    draw(page, FOUR_OR_NINE)
    wait_for_answer(page)
    text = answer_text(page)
    page.click("#copy-curl")
    command = page.evaluate("navigator.clipboard.readText()")

    assert command == page.text_content("#curl")
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == text.encode()
    assert json.loads(text)["passes"] == 50


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
        re.compile(r"What you see is from \d\d:\d\d:\d\d\. Trying again in [1-4] s\.")
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
    expect(page.locator("#line")).to_have_text(re.compile(r"Trying again in \d+ s\."))
    page.unroute(stream)
    # It asks again by itself.
    assert_reads(page, 7)
    seen.complaints.clear()


def test_a_picture_without_ink_is_refused_in_words(page: Page, seen: Seen) -> None:
    send_file(page, "paste", ROOT / "tests" / "browser" / "blank.png")
    expect(page.locator("#headline")).to_have_text("I can't find a digit.")
    assert "the image is uniform; send a digit" in page.inner_text("#line")
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
