"""What the playground teaches: the rate, what is off, the steps, the network; and on a phone."""

import base64
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browser.answers import asked_again, shown_answer, try_example
from tests.browser.chromium import FOUR_OR_NINE, ONE_AND_TWO, SEVEN
from tests.browser.conftest import Seen
from tests.conftest import SAMPLES, RunningServer

pytestmark = pytest.mark.slow


def slide_to(page: Page, rate: float) -> None:
    """Moves the slider as a hand does: while it moves, and where it stays."""
    page.locator("#rate").evaluate(
        """(slider, rate) => {
          slider.value = rate;
          slider.dispatchEvent(new Event("input"));
          slider.dispatchEvent(new Event("change"));
        }""",
        rate,
    )


# The rate


def test_the_rate_makes_passes_agree_or_scatter(page: Page) -> None:
    own = try_example(page, "a 4 or a 9")
    expect(page.locator("#rate-text")).to_have_text(re.compile(r"^0\.\d\d, the network's own$"))
    assert "dropout" not in own

    box = page.locator("#rate").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] - 20, box["y"], steps=4)
    page.mouse.up()
    expect(page.locator("#line")).to_have_text(re.compile("^Nothing was switched off"))
    none = shown_answer(page)
    assert (none["dropout"], max(none["votes"]), none["decision"]) == (0, 50, None)
    assert page.inner_text("#badge") == ""
    assert page.locator("#votes .leader circle").count() == 50
    assert "Nothing is calibrated here" in page.inner_text("#doubt-text")
    # The link and the command hold the rate.
    assert "dropout=0&" in (page.text_content("#curl") or "")
    assert "dropout=0&" in page.url

    slide_to(page, 0.6)
    expect(page.locator("#rate-text")).to_have_text(re.compile(r"^0\.60, the network's own is 0\."))
    expect(page.locator("#line")).to_have_text(re.compile("Decisions hold only at the network"))
    much = shown_answer(page)
    assert much["mutual_information"] > own["mutual_information"] > none["mutual_information"]

    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#badge")).to_have_text("ABSTAINS")
    assert shown_answer(page) == own
    expect(page.locator("#own-rate")).to_be_hidden()


def test_the_rate_moves_with_the_keyboard(page: Page) -> None:
    try_example(page, "a 7")
    page.locator("#rate").focus()
    page.keyboard.press("End")
    expect(page.locator("#rate-text")).to_have_text(re.compile(r"^0\.90"))
    expect(page.locator("#badge")).to_be_empty()
    assert shown_answer(page)["dropout"] == pytest.approx(0.9, abs=1 / 256)


# What was off, and the four steps


def test_pointing_at_a_neuron_says_how_often_it_was_off(page: Page, server: RunningServer) -> None:
    try_example(page, "a 4 or a 9")
    dropped = [
        base64.b64decode(bits)
        for bits in asked_again(page, server, return_passes="true")["dropped"]
    ]

    def off(neuron: int) -> int:
        return sum(bits[neuron // 8] >> (7 - neuron % 8) & 1 for bits in dropped)

    assert page.locator("#neurons text").all_text_contents() == ["512 in layer 1", "256", "128"]
    page.locator("#neurons rect").nth(512 + 20).hover()
    assert page.inner_text("#pointed") == f"Layer 2, neuron 21: off in {off(532)} of 50 passes."
    # And with the keyboard: to the right is one column, 16 neurons, further.
    page.locator("#neurons").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert page.inner_text("#pointed") == f"Layer 2, neuron 36: off in {off(547)} of 50 passes."


def test_the_four_steps_show_the_answer_and_its_pass(page: Page, server: RunningServer) -> None:
    try_example(page, "a 4 or a 9")
    page.fill("#pass", "3")
    api = asked_again(page, server, return_passes="true")
    third = api["pass_probabilities"][2]
    off = sum(bin(byte).count("1") for byte in base64.b64decode(api["dropped"][2]))
    best = max(range(10), key=third.__getitem__)

    steps = page.locator("#how li").all_inner_texts()
    assert f"In pass 3, {off} of 896 were off." in steps[1]
    assert f"Pass 3 says {best} with probability {third[best]:.2f}: a dot above" in steps[2]
    assert f"Here the mean for {api['digit']} is {max(api['mean']):.2f}, and 50 passes" in steps[3]
    squares = [page.locator(f"#how-off .{kind}").get_attribute("d") or "" for kind in ("on", "off")]
    assert [path.count("M") for path in squares] == [896 - off, off]
    assert page.locator("#how-passes .ticks").first.get_attribute("d", timeout=5000)

    page.get_by_role("link", name="How it works").click()
    expect(page.locator("#how-title")).to_be_in_viewport()
    assert "picture=" in page.url  # the drawing's address is left alone


def test_the_page_says_what_mc_dropout_is_before_any_click(page: Page) -> None:
    words = page.inner_text("#intro")
    for said in ("Dropout switches off", "One pass is", "MC dropout asks for fifty", "abstains if"):
        assert said in words
    box = page.locator("#intro").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 200


# The network


def test_the_model_link_opens_a_card_in_words(page: Page, server: RunningServer) -> None:
    model = httpx.get(f"{server.address}/model").json()
    page.locator("#model").click()
    card = page.get_by_role("dialog", name="The network that answers")
    expect(card).to_contain_text(f"{model['name']}, version {model['version']}")
    expect(card).to_contain_text("784 values in; 512, 256, 128 neurons; 10 digits out")
    page.get_by_role("button", name="Close").click()
    expect(card).to_be_hidden()


def test_a_switch_chooses_between_two_networks(page: Page, seen: Seen) -> None:
    network = page.get_by_role("combobox", name="Network")
    expect(network).to_have_value("mnist")
    assert "Try the letter A with each network." in page.inner_text("#try-it")
    own = try_example(page, "the letter A")
    assert "/models/" not in " ".join(seen.requests)
    network.select_option("mnist-plain")
    expect(page.locator("#curl")).to_contain_text("/models/mnist-plain/predict/mc?")
    other = shown_answer(page)
    assert (own["model"]["name"], other["model"]["name"]) == ("mnist", "mnist-plain")
    assert f"Model {other['model']['version']}" == page.text_content("#model")
    # The plain one takes the letter for a digit; the other one scatters.
    assert max(other["votes"]) > 25 > max(own["votes"])
    assert "network=mnist-plain" in page.url

    # A link to it chooses it; one to a network that is gone does not.
    page.goto("about:blank")
    page.go_back()
    expect(network).to_have_value("mnist-plain")
    assert shown_answer(page) == other
    page.evaluate("location.hash = location.hash.replace('mnist-plain', 'gone')")
    expect(network).to_have_value("mnist")
    # The answer of the network before stays until the new one is there.
    expect(page.locator("#model")).to_have_text(f"Model {own['model']['version']}")
    assert shown_answer(page)["model"] == own["model"]
    assert all("404" in complaint for complaint in seen.complaints)
    seen.complaints.clear()


def test_one_network_needs_no_switch(page: Page) -> None:
    models = [{"name": "mnist", "versions": [{"input": {"preparation": "digit"}}]}]
    page.route("**/models", lambda route: route.fulfill(json={"models": models}))
    page.reload()
    try_example(page, "a 7")
    expect(page.locator("#networks")).to_be_hidden()
    assert "letter A" not in page.inner_text("#try-it")


# Links, and the phone


def test_a_link_from_before_shows_its_answer(page: Page) -> None:
    with Image.open(SAMPLES / "7.png") as image:
        seven = image.convert("L").resize((28, 28))
    picture = BytesIO()
    Image.eval(seven, lambda value: 255 - value).save(picture, "PNG")
    coded = base64.urlsafe_b64encode(picture.getvalue()).decode().rstrip("=")
    link = f"#passes=30&seed=12345&estimator=independent&max_standard_error=0.02&picture={coded}"
    page.evaluate("link => { location.hash = link; }", link)

    answer = shown_answer(page)
    assert (answer["digit"], answer["seed"], "dropout" in answer) == (7, 12345, False)
    assert page.input_value("#passes") == "30"
    assert page.input_value("#within") == "0.02"


@pytest.fixture
def phone(browser: Browser, server: RunningServer, seen: Seen) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
        reduced_motion="reduce",
    )
    opened = context.new_page()
    seen.watch(opened)
    opened.goto(f"{server.address}/#seed=1")
    yield opened
    context.close()
    assert seen.complaints == []


def touch(page: Page, strokes: Any) -> None:
    """Draws with a finger."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    device = page.context.new_cdp_session(page)
    for stroke in strokes:
        for number, (x, y) in enumerate(stroke):
            at = {"x": box["x"] + x / 100 * box["width"], "y": box["y"] + y / 100 * box["height"]}
            kind = "touchMove" if number else "touchStart"
            device.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [at]})
        device.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_draws_and_the_page_stays_where_it_is(phone: Page) -> None:
    touch(phone, SEVEN)
    assert shown_answer(phone)["digit"] == 7
    assert phone.evaluate("scrollY") == 0
    phone.locator("#clear").tap()
    expect(phone.locator("#headline")).to_have_text("Draw a digit.")
    touch(phone, FOUR_OR_NINE)
    assert shown_answer(phone)["digit"] in (4, 9)
    # A tap on a dot, which is small, finds it.
    dot = phone.locator("#votes circle").last.bounding_box()
    assert dot is not None
    phone.touchscreen.tap(dot["x"] + dot["width"] / 2, dot["y"] + dot["height"] / 2)
    expect(phone.locator("#rows tr.chosen")).to_have_count(1)
    phone.locator("#settings summary").tap()
    expect(phone.locator("#passes")).to_be_in_viewport()


def test_a_finger_chooses_one_of_two_digits(phone: Page) -> None:
    touch(phone, ONE_AND_TWO)
    assert shown_answer(phone)["decision"]["reason"] == "several_digits"
    # A finger is wider than some frames: a little outside will do.
    frame = phone.get_by_role("button", name="Read only this one, 2 of 2").bounding_box()
    assert frame is not None
    phone.touchscreen.tap(frame["x"] - 5, frame["y"] + frame["height"] / 2)
    expect(phone.locator("#headline")).to_have_text("It's a 2.")


@pytest.mark.parametrize("name", ["a 7", "a scribble"])
def test_pad_verdict_and_dots_are_on_a_phones_first_screen(phone: Page, name: str) -> None:
    phone.get_by_role("button", name=f"Try {name}").tap()
    shown_answer(phone)
    bottoms = {}
    for part in ("#intro", "#verdict", "#pad", "#examples", "#votes"):
        box = phone.locator(part).bounding_box()
        assert box is not None
        bottoms[part] = box["y"] + box["height"]
    assert max(bottoms.values()) <= 740, bottoms
    # The verdict's words end above the pad.
    line = phone.locator("#line").bounding_box()
    pad = phone.locator("#pad").bounding_box()
    assert line is not None
    assert pad is not None
    assert line["y"] + line["height"] <= pad["y"]
