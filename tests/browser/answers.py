"""What an open playground shows, and what the API says to the same question."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from tests.browser.chromium import wait_for_answer
from tests.conftest import RunningServer

FILE_TYPES = {".png": "image/png", ".txt": "text/plain"}


def try_example(page: Page, name: str) -> dict[str, Any]:
    page.get_by_role("button", name=f"Try {name}", exact=True).click()
    return shown_answer(page)


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
    """How many passes say each digit, from the table."""
    return [int(text or 0) for text in page.locator("#rows .count").all_text_contents()]


def dots(page: Page) -> list[int]:
    return [pile.locator("circle").count() for pile in page.locator("#votes .dots").all()]


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
