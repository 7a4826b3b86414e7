"""The verdict in words."""

import pytest

from app.cli.predict.verdict import word_verdict
from app.schemas import Decision
from tests.app.cli.predict.conftest import ACCEPT, DIGITS, NAMES, abstain, answer_of

WORDS = [
    ({7: 50}, ACCEPT, "It's a 7. All 50 passes agree."),
    ({8: 50}, ACCEPT, "It's an 8. All 50 passes agree."),
    (
        {4: 47, 9: 3},
        ACCEPT,
        "It's a 4. 47 of 50 passes say 4, 3 say 9. The predictive entropy is within my threshold.",
    ),
    (
        {4: 28, 9: 21, 7: 1},
        abstain("ambiguous"),
        "I'm not sure: 4 or 9? 28 of 50 passes say 4, 21 say 9. I would rather not answer; a "
        "person should look.",
    ),
    (
        {4: 50},
        abstain("ambiguous"),
        "I'm not sure. Perhaps a 4. All 50 passes lean to 4, but none of them firmly.",
    ),
    (
        {5: 17, 0: 9, 2: 9, 3: 8, 6: 4, 8: 3},
        abstain("unfamiliar"),
        "I don't recognise this. The passes scatter over 6 digits; the best, 5, has 17 of 50. It "
        "may not be a digit. I only know digits, and some other shapes will still fool me.",
    ),
    (
        {4: 50},
        abstain("several_digits"),
        "I see more than one digit. I read one at a time: erase all but one.",
    ),
    (
        {4: 49, 9: 1},
        None,
        "Most likely a 4. 49 of 50 passes say 4, 1 says 9. This network has no threshold: "
        "whether that is certain enough is for you to decide.",
    ),
    ({4: 1}, ACCEPT, "It's a 4. The only pass says 4."),
    (
        {4: 1},
        abstain("unfamiliar"),
        "I'm not sure. Perhaps a 4. The only pass leans to 4, but not firmly.",
    ),
]


def test_passes_that_find_no_digit_likely_are_not_said_to_differ() -> None:
    mean = (0.14, 0.12, *(0.0925,) * 8)
    answer = answer_of(
        {0: 50}, abstain("unfamiliar"), mean=mean, expected_entropy=2.2, mutual_information=0.01
    )
    words = " ".join(word_verdict(answer, DIGITS))
    assert words == (
        "I don't recognise this. The passes find no digit likely: even the best gets only 14 % on "
        "average. It may not be a digit. I only know digits, and some other shapes will still "
        "fool me."
    )


@pytest.mark.parametrize(("votes", "decision", "words"), WORDS)
def test_the_verdict_says_what_the_decision_rests_on(
    votes: dict[int, int], decision: Decision | None, words: str
) -> None:
    assert " ".join(word_verdict(answer_of(votes, decision), DIGITS)) == words


@pytest.mark.parametrize(
    ("votes", "decision", "words"),
    [
        ({3: 28, 9: 22}, abstain("ambiguous"), "I'm not sure: trey or nine? 28 of 50 passes say"),
        ({3: 28, 9: 22}, None, "Most likely a trey. 28 of 50 passes say trey, 22 say nine."),
        ({3: 1}, ACCEPT, "It's a trey. The only pass says trey."),
    ],
)
def test_classes_are_called_by_their_labels(
    votes: dict[int, int], decision: Decision | None, words: str
) -> None:
    answer = answer_of(votes, decision, label="trey")
    assert " ".join(word_verdict(answer, NAMES)).startswith(words)


def test_another_dropout_rate_leaves_the_verdict_to_the_reader() -> None:
    answer = answer_of({4: 49, 9: 1}, None, dropout=0.5)

    assert " ".join(word_verdict(answer, DIGITS)) == (
        "Most likely a 4. 49 of 50 passes say 4, 1 says 9. No threshold holds for another dropout "
        "rate: whether that is certain enough is for you to decide."
    )


def test_the_rival_of_an_ambiguous_image_is_the_second_by_mean() -> None:
    means = (0.0, 0.4, 0.05, 0.0, 0.45, 0.0, 0.0, 0.1, 0.0, 0.0)
    answer = answer_of({4: 45, 7: 5}, abstain("ambiguous"), mean=means)

    headline, reason = word_verdict(answer, DIGITS)
    assert headline == "I'm not sure: 4 or 1?"
    assert reason.startswith("45 of 50 passes say 4. ")


def test_the_digit_need_not_have_most_votes() -> None:
    answer = answer_of({4: 24, 9: 26}, None, digit=4, label="4")

    assert "24 of 50 passes say 4, 26 say 9." in word_verdict(answer, DIGITS).reason
