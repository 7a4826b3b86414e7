"""What `calibrate` fits for the callers' own operating points, and for accuracy without labels."""

import math
from typing import Any

import numpy as np

from model.arrays import Array
from model.literals import ENTROPY_BOUNDS
from training.metrics import Wrong
from training.selection import between, upper_bound

TARGET_ERRORS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
# Of the tests' error probability, for the sequence that begins at many accepted answers.
_SHARE_OF_LATE = 0.2
_LATE = 0.9

Point = dict[str, float] | None


def target_points(scores: Array, wrong: Wrong, confidence: float) -> dict[str, Point]:
    """For each target error the threshold and the share that it accepts; see `target_point`."""
    return {str(level): target_point(scores, wrong, level, confidence) for level in TARGET_ERRORS}


def target_point(scores: Array, wrong: Wrong, target: float, confidence: float) -> Point:
    """The largest threshold that keeps the error among accepted answers to the target.

    As `selection.abstention_threshold`, thresholds are tried in fixed sequences that end at the
    first failure (Learn then Test). Two of them share the error probability: one begins as soon as
    no wrong answer at all would be enough; the other, with a fifth of it, where 90 % of the answers
    are accepted, so that a few wrong labels among the most certain answers do not end it.

    Args:
        scores: uncertainty, (N,).
        wrong: which answers were wrong, (N,).
        target: the largest error among accepted answers.
        confidence: of the bound on it.

    Returns:
        `threshold` and `coverage`; None if the answers cannot support the target.
    """
    order = np.argsort(scores, kind="stable")
    errors = np.cumsum(wrong[order], dtype=np.int64)
    counts = np.arange(1, len(scores) + 1)
    late = math.ceil(_LATE * len(scores))
    accepted = 0
    for share, first in ((_SHARE_OF_LATE, late), (1 - _SHARE_OF_LATE, 1)):
        level = 1 - share * (1 - confidence)
        # With fewer answers than this, not even none wrong would be enough.
        first = max(first, math.ceil(math.log(1 - level) / math.log(1 - target)))
        passes = upper_bound(errors[first - 1 :], counts[first - 1 :], level) <= target
        failed = np.flatnonzero(~passes)
        last = first - 1 + (int(failed[0]) if len(failed) else len(passes))
        accepted = max(accepted, last if last >= first else 0)
    if accepted == 0:
        return None
    return {
        "threshold": between(scores[order], accepted - 1),
        "coverage": round(accepted / len(scores), 4),
    }


def entropy_shares(entropies: Array) -> list[float]:
    """The share of the images up to each of the histogram's bounds."""
    found: Any = (entropies[:, None] <= np.array(ENTROPY_BOUNDS)).mean(axis=0)
    return [round(float(share), 6) for share in found]
