"""The decision to accept an answer or to abstain, and the reason for abstaining."""

from collections.abc import Sequence
from typing import NamedTuple

from model.arrays import Probs
from model.literals import Outcome, Reason

# An image is ambiguous if the two most probable classes have at least this probability together.
AMBIGUOUS_SHARE = 0.75


class Decision(NamedTuple):
    """Whether to rely on an answer.

    Attributes:
        outcome: accept or abstain.
        reason: the reason for abstaining; None if the answer is accepted.
        score: the predictive entropy, nats.
        threshold: the largest score that is accepted, nats.
    """

    outcome: Outcome
    reason: Reason | None
    score: float
    threshold: float


def decide(
    mean: Sequence[float] | Probs,
    score: float,
    threshold: float | None,
    *,
    several_digits: bool = False,
) -> Decision | None:
    """Accepts an answer whose score is at most the threshold.

    Args:
        mean: uncalibrated class probabilities, (C,); for an MC answer the mean over the passes.
        score: the predictive entropy, nats.
        threshold: fitted on validation images; None if it was not fitted.
        several_digits: the picture holds several digits, so that no single answer can be right.

    Returns:
        The decision, or None without a threshold. The reason for abstaining is "ambiguous" if the
        two largest of `mean` sum to at least `AMBIGUOUS_SHARE`, and "unfamiliar" otherwise.
    """
    if threshold is None:
        return None
    if several_digits:
        return Decision("abstain", "several_digits", score, threshold)
    if score <= threshold:
        return Decision("accept", None, score, threshold)
    shared = float(sum(sorted(mean)[-2:]))
    reason: Reason = "ambiguous" if shared >= AMBIGUOUS_SHARE else "unfamiliar"
    return Decision("abstain", reason, score, threshold)
