"""The decision to accept an answer or to abstain, and the reason for abstaining."""

from collections.abc import Sequence
from typing import NamedTuple

from model.arrays import Probs
from model.literals import Measure, Outcome, Reason
from model.uncertainty.calibration import Calibration

# An image is ambiguous if the two most probable classes have at least this probability together.
AMBIGUOUS_SHARE = 0.75


class Decision(NamedTuple):
    """Whether to rely on an answer.

    Attributes:
        outcome: accept or abstain.
        reason: the reason for abstaining; None if the answer is accepted.
        measure: what decided.
        score: its value, nats.
        threshold: the largest score that is accepted, nats.
    """

    outcome: Outcome
    reason: Reason | None
    measure: Measure
    score: float
    threshold: float


def decide(
    mean: Sequence[float] | Probs,
    predictive_entropy: float,
    calibration: Calibration,
    *,
    mutual_information: float = 0.0,
    several_digits: bool = False,
) -> Decision | None:
    """Accepts an answer whose predictive entropy and mutual information are small enough.

    Args:
        mean: uncalibrated class probabilities, (C,); for an MC answer the mean over the passes.
        predictive_entropy: nats.
        calibration: its thresholds were fitted on validation images.
        mutual_information: nats; 0 without dropout.
        several_digits: the picture holds several digits, so that no single answer can be right.

    Returns:
        The decision, or None without a threshold. The reason for abstaining is "unfamiliar" if the
        passes disagree by more than `calibration.unfamiliar_threshold`. Otherwise it is "ambiguous"
        if the two largest of `mean` sum to at least `AMBIGUOUS_SHARE`, and "unfamiliar" if not.
    """
    threshold, most_disagreement = calibration.threshold, calibration.unfamiliar_threshold
    if threshold is None:
        return None
    by_entropy: tuple[Measure, float, float] = ("predictive_entropy", predictive_entropy, threshold)
    if several_digits:
        return Decision("abstain", "several_digits", *by_entropy)
    if most_disagreement is not None and mutual_information > most_disagreement:
        scores = mutual_information, most_disagreement
        return Decision("abstain", "unfamiliar", "mutual_information", *scores)
    if predictive_entropy <= threshold:
        return Decision("accept", None, *by_entropy)
    shared = float(sum(sorted(mean)[-2:]))
    reason: Reason = "ambiguous" if shared >= AMBIGUOUS_SHARE else "unfamiliar"
    return Decision("abstain", reason, *by_entropy)
