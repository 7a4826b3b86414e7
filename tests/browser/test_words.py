"""What the page says in each state, word for word."""

from typing import Any

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.slow


def answer(votes: dict[int, int], outcome: str = "accept", **more: Any) -> dict[str, Any]:
    """An answer of 50 passes whose average is its votes; the class asked for is the largest."""
    counts = [votes.get(digit, 0) for digit in range(10)]
    decision = {"outcome": outcome, "reason": None, "score": 0.8, "threshold": 0.41}
    return {
        "digit": max(range(10), key=counts.__getitem__),
        "votes": counts,
        "passes": sum(counts),
        "mean": [count / sum(counts) for count in counts],
        "decision": {**decision, **more},
    }


def abstaining(votes: dict[int, int], reason: str, **more: Any) -> dict[str, Any]:
    return answer(votes, "abstain", reason=reason, **more)


def failed(error: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "failed", "error": error, "since": None, "retryInSeconds": None, **more}


CERTAIN = answer({7: 50})
UNKNOWN = {**CERTAIN, "decision": None}
AMBIGUOUS = abstaining({4: 28, 9: 21, 8: 1}, "ambiguous")
OUTVOTED = {
    **abstaining({4: 45, 7: 5}, "ambiguous"),
    "mean": [0, 0.4, 0.05, 0, 0.45, 0, 0, 0.1, 0, 0],
}
# Decided by how far the passes disagree.
DISAGREEING = abstaining({4: 28, 9: 21, 8: 1}, "unfamiliar", measure="mutual_information")
UNEVEN = abstaining({4: 50}, "unfamiliar", measure="mutual_information")
ONE_PASS = abstaining({4: 1}, "ambiguous")
OTHER_RATE = {**answer({4: 47, 9: 3}), "decision": None, "dropout": 0.6}
NO_RATE = {**answer({4: 50}), "decision": None, "dropout": 0}
MANY_RATE = {**answer({4: 20, 9: 18, 8: 12}), "decision": None, "dropout": 0.9}
SCATTERED = abstaining({5: 17, 3: 12, 8: 9, 2: 6, 0: 4, 9: 2}, "unfamiliar")
FLAT = {
    **abstaining({0: 50}, "unfamiliar"),
    "mean": [0.14, 0.12, *[0.0925] * 8],
    "expected_entropy": 2.2,
    "mutual_information": 0.01,
}
OVERLOADED = {"status": 429, "code": "overloaded"}
TRUNCATED = {"status": 400, "code": "truncated_image", "message": "the image is cut off"}

STATES: dict[str, tuple[dict[str, Any], str, str, str | None]] = {
    "empty": (
        {"kind": "empty"},
        "Draw a digit.",
        "Or drop a picture, paste one, or try an example.",
        None,
    ),
    "drawing": (
        {"kind": "drawing", "answer": CERTAIN},
        "Looks like a 7 so far.",
        "I am reading along.",
        None,
    ),
    "drawing an 8": (
        {"kind": "drawing", "answer": answer({8: 50})},
        "Looks like an 8 so far.",
        "I am reading along.",
        None,
    ),
    "drawing, in doubt": (
        {"kind": "drawing", "answer": AMBIGUOUS},
        "Not sure yet.",
        "I am reading along.",
        None,
    ),
    "converging": (
        {"kind": "converging", "answer": answer({7: 21, 1: 2}), "total": 50},
        "Leaning to 7.",
        "23 of 50 passes so far; 21 say 7.",
        None,
    ),
    "converging to nothing": (
        {"kind": "converging", "answer": FLAT, "total": 100},
        "No digit stands out.",
        "50 of 100 passes so far; they find none likely.",
        None,
    ),
    "certain": (
        {"kind": "answered", "answer": CERTAIN},
        "It's a 7.",
        "All 50 passes agree.",
        "ANSWERS",
    ),
    "fairly sure": (
        {"kind": "answered", "answer": answer({4: 47, 9: 3})},
        "It's a 4.",
        "47 of 50 passes say 4, 3 say 9. That is within my limit for doubt.",
        "ANSWERS",
    ),
    "ambiguous": (
        {"kind": "answered", "answer": AMBIGUOUS},
        "I'm not sure: 4 or 9?",
        "28 of 50 passes say 4, 21 say 9. I would rather not answer; a person should look.",
        "ABSTAINS",
    ),
    "ambiguous, but for the votes": (
        {"kind": "answered", "answer": OUTVOTED},
        "I'm not sure: 4 or 1?",
        "45 of 50 passes say 4. I would rather not answer; a person should look.",
        "ABSTAINS",
    ),
    "agreed but weak": (
        {"kind": "answered", "answer": abstaining({4: 50}, "ambiguous")},
        "I'm not sure. Perhaps a 4.",
        "All 50 passes lean to 4, but none of them firmly.",
        "ABSTAINS",
    ),
    "two digits, and more disagreement than over digits": (
        {"kind": "answered", "answer": DISAGREEING},
        "I'm not sure: 4 or 9?",
        "28 of 50 passes say 4, 21 say 9. That is more disagreement than I know from digits; a "
        "person should look.",
        "ABSTAINS",
    ),
    "agreed, but unevenly": (
        {"kind": "answered", "answer": UNEVEN},
        "I'm not sure. Perhaps a 4.",
        "All 50 passes lean to 4, but some firmly and some not.",
        "ABSTAINS",
    ),
    "one pass in doubt": (
        {"kind": "answered", "answer": ONE_PASS},
        "I'm not sure. Perhaps a 4.",
        "The only pass leans to 4, but not firmly.",
        "ABSTAINS",
    ),
    "one pass, certain": (
        {"kind": "answered", "answer": answer({8: 1})},
        "It's an 8.",
        "The only pass says 8.",
        "ANSWERS",
    ),
    "another rate": (
        {"kind": "answered", "answer": OTHER_RATE},
        "Most passes say 4.",
        "47 of 50 passes say 4, 3 say 9. Decisions hold only at the network's own rate, so none "
        "is made.",
        None,
    ),
    "a rate of 0": (
        {"kind": "answered", "answer": NO_RATE},
        "All passes say 4.",
        "Nothing was switched off, so all passes are the same. Decisions hold only at the "
        "network's own rate, so none is made.",
        None,
    ),
    "a rate at which they scatter": (
        {"kind": "answered", "answer": MANY_RATE},
        "The passes scatter; most often they say 4.",
        "20 of 50 passes say 4, 18 say 9. Decisions hold only at the network's own rate, so none "
        "is made.",
        None,
    ),
    "not a digit": (
        {"kind": "answered", "answer": SCATTERED},
        "I don't recognise this.",
        "The passes scatter over 6 digits; the best, 5, has 17 of 50. It may not be a digit. "
        "I only know digits, and some other shapes will still fool me.",
        "ABSTAINS",
    ),
    "not a digit, and each pass knows it": (
        {"kind": "answered", "answer": FLAT},
        "I don't recognise this.",
        "The passes find no digit likely: even the best gets only 14 % on average. It may not be "
        "a digit. I only know digits, and some other shapes will still fool me.",
        "ABSTAINS",
    ),
    "several digits": (
        {"kind": "answered", "answer": abstaining({4: 50}, "several_digits")},
        "I see more than one digit.",
        "I read one at a time: choose one by its frame. The grey dots are for the one with most "
        "ink.",
        "ABSTAINS",
    ),
    "no limit for doubt": (
        {"kind": "answered", "answer": UNKNOWN},
        "All passes say 7.",
        "50 of 50 passes say 7. This network has no limit for doubt yet, so it neither answers "
        "nor abstains.",
        None,
    ),
    "no ink": (
        failed({"status": 422, "code": "no_ink", "message": "marks are all over the image"}),
        "I can't find a digit.",
        "Marks are all over the image.",
        None,
    ),
    "server gone": (
        failed({}, since="14:32:07", retryInSeconds=4),
        "The server does not answer.",
        "What you see is from 14:32:07. Trying again in 4\u00a0s.",
        None,
    ),
    "busy": (
        failed(OVERLOADED, retryInSeconds=2),
        "The server is busy.",
        "Trying again in 2\u00a0s.",
        None,
    ),
    "bad file": (
        failed({"status": 415, "code": "unsupported_media_type"}),
        "I can't read that file.",
        "PNG, JPEG, WebP, BMP, GIF and TIFF work.",
        None,
    ),
    "bad picture": (
        failed({"status": 415, "code": "not_an_image", "message": "send PNG or JPEG"}),
        "I can't read that file.",
        "Send PNG or JPEG.",
        None,
    ),
    "cut off": (failed(TRUNCATED), "I can't read that file.", "The image is cut off.", None),
}


@pytest.mark.parametrize("name", STATES)
def test_each_state_has_its_words(words: Page, name: str) -> None:
    state, headline, line, badge = STATES[name]
    said = words.evaluate(
        """async (state) => {
          const { wordsFor } = await import("/static/playground/words.js");
          return wordsFor(state, [..."0123456789"]);
        }""",
        state,
    )
    assert said == {"headline": headline, "line": line, "badge": badge}


@pytest.mark.parametrize(
    ("rates", "words_for_them"),
    [
        ([51 / 256] * 3, "a random 1 in 5 of the neurons"),
        ([0.5, 0.5], "a random 1 in 2 of the neurons"),
        ([0.4, 0.4], "a random 40\u00a0% of the neurons"),
        ([0.1, 0.3], "a random 10 to 30\u00a0% of the neurons"),
    ],
)
def test_the_share_of_neurons_is_the_models(
    words: Page, rates: list[float], words_for_them: str
) -> None:
    said = words.evaluate(
        """async (rates) => {
          const { dropoutWords } = await import("/static/playground/words.js");
          return dropoutWords(rates);
        }""",
        rates,
    )
    assert said == words_for_them
