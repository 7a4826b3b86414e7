"""Whether to answer or to abstain, and why."""

from collections.abc import Sequence
from typing import NamedTuple

from model.literals import Outcome, Reason
from model.uncertainty.statistics import Probs

# Two classes share an image where they have so much of the mean probability together.
AMBIGUOUS_SHARE = 0.75


class Decision(NamedTuple):
    """What to do with an answer.

    Attributes:
        outcome: whether the answer should be relied on.
        reason: why not; None where it should.
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
    """Accepts up to the threshold; beyond it says whether two classes compete, or none fits.

    Args:
        mean: uncalibrated probabilities, of MC answers the mean over the passes, (C,).
        score: the predictive entropy, nats.
        threshold: fitted on validation images; None: not fitted.
        several_digits: the image was seen to hold more than one digit: no answer can be right.

    Returns:
        The decision, or None without a threshold.
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
