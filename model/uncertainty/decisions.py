"""The decision to accept an answer or to abstain, and the reason for abstaining."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Probs
from model.literals import Measure, Outcome, Reason
from model.uncertainty.calibration import Calibration
from model.uncertainty.statistics import Summaries

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


def decide_images(
    summaries: Summaries, calibration: Calibration, several_digits: NDArray[np.bool_]
) -> tuple[list[Outcome | None], list[Reason | None]]:
    """The outcomes and the reasons of `decide` for many images, from float32 scores as in answers.

    Args:
        summaries: of the images, (B,).
        calibration: as for one.
        several_digits: of each image, (B,).
    """
    threshold, most_disagreement = calibration.threshold, calibration.unfamiliar_threshold
    if threshold is None:
        return [None] * len(several_digits), [None] * len(several_digits)
    measures = summaries.predictive_entropy, summaries.mutual_information
    entropy, disagreement = (each.astype(np.float32).astype(np.float64) for each in measures)
    cases = (
        several_digits,
        disagreement > (np.inf if most_disagreement is None else most_disagreement),
        entropy <= threshold,
        np.sort(summaries.mean)[:, -2:].sum(axis=-1) >= AMBIGUOUS_SHARE,
    )
    found = np.select(cases, ("several_digits", "unfamiliar", "", "ambiguous"), "unfamiliar")
    reasons = [reason or None for reason in found.tolist()]
    return ["abstain" if reason else "accept" for reason in reasons], reasons
