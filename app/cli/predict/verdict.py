"""An answer in words: the verdict. It follows the answer's decision and adds none of its own."""

from collections.abc import Sequence
from typing import NamedTuple

from app.schemas import McPrediction

_MAY_BE_NO_DIGIT = (
    "It may not be a digit. I only know digits, and some other shapes will still fool me."
)


class Verdict(NamedTuple):
    """A headline, and the reason for it."""

    headline: str
    reason: str


def word_verdict(answer: McPrediction, labels: Sequence[str]) -> Verdict:
    """The verdict on an answer, as the playground's.

    Args:
        answer: if it has no decision, the verdict leaves it to the reader.
        labels: the network's name for each class.
    """
    label, decision, counts = answer.label, answer.decision, _count_votes(answer, labels)
    agreed = answer.votes[answer.index] == answer.passes
    if decision is None:
        cause = "This network has no threshold"
        if answer.dropout is not None:
            cause = "No threshold holds for another dropout rate"
        return Verdict(
            f"Most likely {_a(label)}.",
            f"{counts} {cause}: whether that is certain enough is for you to decide.",
        )
    if not decision.abstains:
        limit = "" if agreed else " The predictive entropy is within my threshold."
        return Verdict(f"It's {_a(label)}.", f"{counts}{limit}")
    if decision.reason == "several_digits":
        return Verdict("I see more than one digit.", "I read one at a time: erase all but one.")
    if is_flat(answer):
        return Verdict(
            "I don't recognise this.",
            "The passes find no digit likely: even the best gets only "
            f"{100 * answer.mean[answer.index]:.0f} % on average. {_MAY_BE_NO_DIGIT}",
        )
    if agreed:
        lean = "The only pass leans" if answer.passes == 1 else f"All {answer.passes} passes lean"
        firmly = "not firmly" if answer.passes == 1 else "none of them firmly"
        return Verdict(f"I'm not sure. Perhaps {_a(label)}.", f"{lean} to {label}, but {firmly}.")
    if decision.reason == "ambiguous":
        return Verdict(
            f"I'm not sure: {label} or {labels[rival_of(answer)]}?",
            f"{counts} I would rather not answer; a person should look.",
        )
    chosen = sum(votes > 0 for votes in answer.votes)
    return Verdict(
        "I don't recognise this.",
        f"The passes scatter over {chosen} digits; the best, {label}, has "
        f"{answer.votes[answer.index]} of {answer.passes}. {_MAY_BE_NO_DIGIT}",
    )


def is_flat(answer: McPrediction) -> bool:
    """Whether no single pass finds a digit likely: its vote is then close to chance."""
    return (
        answer.decision is not None
        and answer.decision.reason == "unfamiliar"
        and answer.mean[answer.index] < 0.5
        and answer.expected_entropy > answer.mutual_information
    )


def rival_of(answer: McPrediction) -> int:
    """The class that competes with the answer's own, by votes and then by mean."""
    # The server calls an answer ambiguous by the means.
    is_ambiguous = answer.decision is not None and answer.decision.reason == "ambiguous"
    others = [index for index in range(len(answer.votes)) if index != answer.index]
    return max(others, key=lambda i: (0 if is_ambiguous else answer.votes[i], answer.mean[i]))


def _count_votes(answer: McPrediction, labels: Sequence[str]) -> str:
    """As "All 50 passes agree." or "47 of 50 passes say 4, 3 say 9."."""
    rival = rival_of(answer)
    own, others = answer.votes[answer.index], answer.votes[rival]
    if answer.passes == 1:
        return f"The only pass says {labels[answer.votes.index(1)]}."
    if own == answer.passes:
        return f"All {answer.passes} passes agree."
    rest = f", {others} {_say(others)} {labels[rival]}" if others else ""
    return f"{own} of {answer.passes} passes {_say(own)} {answer.label}{rest}."


def _say(count: int) -> str:
    return "says" if count == 1 else "say"


def _a(label: str) -> str:
    return f"an {label}" if label[:1] in tuple("8AEIOUaeiou") else f"a {label}"
