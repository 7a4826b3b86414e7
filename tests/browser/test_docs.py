"""The API docs in a browser: every example executes, file pickers included."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import Seen
from tests.conftest import SAMPLES, RunningServer

pytestmark = pytest.mark.slow

# Swagger UI finds no widget of this name, says so, and takes its file picker.
HARMLESS = "Could not find component: JsonSchema_string_binary"

SINGLE = ("/predict", "/predict/mc", "/predict/mc/stream")
BATCH = ("/predict/batch", "/predict/mc/batch")


@pytest.fixture(scope="module")
def docs(browser: Browser, server: RunningServer) -> Iterator[Page]:
    seen = Seen()
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    seen.watch(page)
    page.goto(f"{server.address}/docs")
    page.locator(".opblock").first.wait_for()
    yield page
    page.close()
    assert set(seen.complaints) <= {HARMLESS}
    assert {url for url in seen.requests if not url.startswith(f"{server.address}/")} == set()


def opened(docs: Page, method: str, path: str) -> Locator:
    """The block of a route, opened."""
    block = docs.locator(f".opblock-{method}").filter(
        has=docs.locator(f'.opblock-summary-path[data-path="{path}"]')
    )
    if "is-open" not in (block.get_attribute("class") or ""):
        block.locator(".opblock-summary-control").click()
    block.locator("button.execute").wait_for()
    return block


def execute(block: Locator) -> str:
    """Executes what stands there; returns the body of the answer, whose status is 200."""
    if block.locator("button.btn-clear").count():
        block.locator("button.btn-clear").click()
    block.locator("button.execute").click()
    live = block.locator(".live-responses-table .response")
    expect(live.locator(".response-col_status").first).to_have_text("200")
    return live.locator(".response-col_description").inner_text()


@pytest.mark.parametrize("path", ["/model", "/health/live", "/health/ready"])
def test_what_is_only_asked_for_answers(docs: Page, path: str) -> None:
    assert "{" in execute(opened(docs, "get", path))


@pytest.mark.parametrize("path", SINGLE + BATCH)
def test_every_json_example_executes(docs: Page, path: str) -> None:
    block = opened(docs, "post", path)
    if block.locator("button.btn-clear").count():  # the files of a form would stay in the body
        page = docs.url.partition("#")[0]
        docs.goto("about:blank")
        docs.goto(page)
        block = opened(docs, "post", path)
    block.locator(".body-param-content-type select").select_option("application/json")
    choices = block.locator(".examples-select select")
    names = ["image", "pixels"] if path in SINGLE else ["images"]
    if len(names) > 1:
        values = choices.first.locator("option").evaluate_all("all => all.map((one) => one.value)")
        assert set(names) <= set(values)
    for name in names:
        if len(names) > 1:
            choices.first.select_option(name)
        answer = execute(block)
        assert '"digit": 7' in answer or '"digit":7' in answer


def test_v2_is_described_and_its_example_executes(docs: Page) -> None:
    assert '"votes"' in execute(opened(docs, "post", "/v2/models/{model}/infer"))


def test_the_docs_are_dark_where_the_playground_is(browser: Browser, server: RunningServer) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(f"{server.address}/docs")
    background = "getComputedStyle(document.querySelector('.swagger-ui')).backgroundColor"
    page.locator(".opblock").first.wait_for()
    assert page.evaluate(background) == "rgb(28, 32, 34)"
    page.evaluate("localStorage.setItem('dropserve-theme', 'light')")
    page.reload()
    page.locator(".opblock").first.wait_for()
    assert page.evaluate(background) != "rgb(28, 32, 34)"
    context.close()


@pytest.mark.parametrize("path", SINGLE)
def test_a_file_is_picked_as_the_body(docs: Page, path: str) -> None:
    block = opened(docs, "post", path)
    block.locator(".body-param-content-type select").select_option("image/png")
    block.locator("input[type=file]").set_input_files(SAMPLES / "3.png")
    answer = execute(block)
    assert '"digit": 3' in answer or '"digit":3' in answer


@pytest.mark.parametrize("path", SINGLE)
def test_a_file_is_picked_in_a_form(docs: Page, path: str) -> None:
    block = opened(docs, "post", path)
    block.locator(".body-param-content-type select").select_option("multipart/form-data")
    block.locator("input[type=file]").set_input_files(SAMPLES / "3.png")
    answer = execute(block)
    assert '"digit": 3' in answer or '"digit":3' in answer


@pytest.mark.parametrize("path", BATCH)
def test_several_files_are_picked(docs: Page, path: str) -> None:
    block = opened(docs, "post", path)
    block.locator(".body-param-content-type select").select_option("multipart/form-data")
    for number, name in enumerate(("3.png", "7.png")):
        if block.locator("input[type=file]").count() == number:
            block.locator(".json-schema-array > .json-schema-form-item-add").first.click()
        block.locator("input[type=file]").nth(number).set_input_files(SAMPLES / name)
    answer = execute(block)
    assert '"digit": 3' in answer
    assert '"digit": 7' in answer
