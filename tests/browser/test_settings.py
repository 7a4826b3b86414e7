"""The playground's passes, numbers, settings and links: look into, change, take away."""

import base64
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.answers import (
    answer_text,
    asked_again,
    assert_reads,
    counts,
    dots,
    headline,
    shown_answer,
    try_example,
)
from tests.browser.chromium import FOUR_OR_NINE, SEVEN, draw, wait_for_answer
from tests.browser.conftest import Seen
from tests.conftest import RunningServer

pytestmark = pytest.mark.slow


HIDDEN = 512 + 256 + 128

# Passes


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
        pile = page.locator("#votes .dots").nth(digit)
        box = pile.locator("circle").nth(number).bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        index = int(np.flatnonzero(choices == digit)[number])
        bits = np.unpackbits(np.frombuffer(base64.b64decode(api["dropped"][index]), np.uint8))
        assert squares_off(page) == bits[:HIDDEN].astype(bool).tolist()
        assert page.input_value("#pass") == str(index + 1)
        says = f"{index + 1} of 50: this pass says {digit} ("
        assert page.inner_text("#pass-text").startswith(says)
        assert page.locator("#rows tr.chosen th").inner_text() == str(digit)
        # Its ten probabilities stand where they belong, between the axis' 0 and 1.
        zero, _, one = (
            float(line.get_attribute("y1") or "") for line in page.locator("#chances .grid").all()
        )
        heights: list[float] = page.locator("#chances .mark").evaluate_all(
            "marks => marks.map((one) => one.transform.baseVal[0].matrix.f)"
        )
        places = [(zero - height) / (zero - one) for height in heights]
        assert places == pytest.approx(api["pass_probabilities"][index], abs=1e-4)


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
    expect(page.locator("#rate-text")).to_have_text(f"{rate:.2f}, the network's own")
    # As a share of one where it is one: 0.199 is one in five, 0.398 is 40 %.
    is_one_in = abs(1 / rate - round(1 / rate)) < 0.1
    share = f"1 in {1 / rate:.0f}" if is_one_in else f"{100 * rate:.0f}\u00a0%"
    expect(page.locator("#facts")).to_contain_text(f"switches off a random {share} of the neurons")


# The numbers


def test_the_words_about_doubt_hold_the_answers_numbers(page: Page) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    answer = json.loads(answer_text(page))
    words = page.inner_text("#doubt-text")

    assert words.startswith(f"Total doubt {answer['predictive_entropy']:.2f} (0 is none, 2.30 is")
    assert f"my limit is {answer['decision']['threshold']:.2f})" in words
    assert f"{answer['expected_entropy']:.2f} because the drawing is unclear" in words
    assert f"{answer['mutual_information']:.2f} because the passes disagree" in words
    forced = f"I would say {answer['label']}: confidence {answer['confidence']:.2f}"
    assert f"If I had to answer, {forced}, calibrated on usual digits." in words
    # Rounded to 1.00, it would claim to be certain.
    assert try_example(page, "a 7")["confidence"] > 0.995
    assert "Calibrated confidence in 7: above 0.99." in page.inner_text("#doubt-text")


def test_the_rows_are_a_table_with_numbers(page: Page) -> None:
    page.get_by_role("button", name="Try a 4 or a 9").click()
    wait_for_answer(page)
    answer = json.loads(answer_text(page))

    for digit, row in enumerate(page.get_by_role("table").locator("tbody tr").all()):
        name, count, average, band = row.locator("th, td").all_text_contents()
        assert (name, count) == (str(digit), str(answer["votes"][digit]))
        assert float(average) == pytest.approx(answer["mean"][digit], abs=6e-4)
        low, high = map(float, band.split(" to "))
        assert 0 <= low <= high <= 1


def test_the_verdict_is_spoken_while_one_draws_and_once_at_the_end(page: Page) -> None:
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

    said = [page.text_content(f"#{name}") for name in ("headline", "badge", "line")]
    verdict = " ".join(text for text in said if text)
    expect(page.locator("#status")).to_have_text(verdict)
    *before, last = page.evaluate("window.spoken")
    assert last == verdict
    # Before it, what the stroke looks like so far: another headline each time, and few.
    assert 1 <= len(before) <= 4
    assert all(re.fullmatch(r"Not sure yet\.|Looks like an? \d so far\.", one) for one in before)
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


def test_an_impossible_setting_is_marked_and_the_last_answer_stays(page: Page, seen: Seen) -> None:
    draw(page, SEVEN)
    before = shown_answer(page)
    page.fill("#passes", "5000")
    page.locator("#passes").blur()
    expect(page.locator("#wrong")).to_have_text("Passes must be a whole number from 1 to 1000.")
    expect(page.locator("#passes")).to_have_attribute("aria-invalid", "true")
    assert shown_answer(page) == before
    assert_reads(page, 7)
    seen.complaints.clear()

    page.fill("#passes", "20")
    page.locator("#passes").blur()
    expect(page.locator("#passes")).not_to_have_attribute("aria-invalid", "true")
    wait_for_answer(page)
    assert sum(counts(page)) == 20
    expect(page.locator("#wrong")).to_be_empty()


def test_an_impossible_setting_of_a_first_drawing_is_explained(page: Page, seen: Seen) -> None:
    page.fill("#seed", "-1")
    draw(page, SEVEN)
    expect(page.locator("#headline")).to_have_text("That did not work.")
    expect(page.locator("#seed")).to_have_attribute("aria-invalid", "true")
    assert page.inner_text("#wrong") == page.inner_text("#line")
    seen.complaints.clear()


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


def test_without_a_clipboard_what_to_copy_is_shown_and_selected(page: Page) -> None:
    try_example(page, "a 7")
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    for button, place in (("#copy-link", "#link"), ("#copy-curl", "#curl")):
        page.click(button)
        expect(page.locator(button)).to_have_text("Press Ctrl+C")
        assert page.locator(place).is_visible()
        assert page.evaluate("getSelection().toString()") == page.text_content(place)


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
