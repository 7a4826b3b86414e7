"""Early stopping by the decision: sampling ends once further passes would hardly change it.

The decision is looked at after fixed numbers of passes, so when it ends depends on the image, the
seed and the threshold only. It has settled if the entropy is farther from its threshold than a
margin, which shrinks as 1 / sqrt(T). The margin's scale is fitted on validation images: see
`training.settling`. For a single image nothing is promised.
"""

from bisect import bisect_right
from typing import Any

import numpy as np

from model.uncertainty.calibration import Calibration

# Numbers of passes after which the decision is looked at.
LOOKS = (4, 8, 12, *(base << octave for octave in range(13) for base in (16, 24)))
# The margin at scale 1 and one pass, nats, of an entropy of 0, and what is added for each square
# root of a nat: an entropy near 0 varies less from pass to pass.
_LEAST, _GROWTH = 0.7, 1.1


def next_look(passes: int) -> int:
    """The first look after this number of passes."""
    return LOOKS[min(bisect_right(LOOKS, passes), len(LOOKS) - 1)]


def has_settled(
    predictive_entropy: Any,
    mutual_information: Any,
    calibration: Calibration,
    passes: int,
    scale: float,
) -> Any:
    """Whether a decision is farther from changing than the margin.

    Args:
        predictive_entropy: of the passes so far, nats, a number or an array.
        mutual_information: the same.
        calibration: for this number of passes; with a threshold.
        passes: their number.
        scale: of the margin.

    Returns:
        A truth value, or an array of them.
    """
    assert calibration.threshold is not None
    distance = predictive_entropy - calibration.threshold
    if calibration.unfamiliar_threshold is not None:
        disagreement = mutual_information - calibration.unfamiliar_threshold
        distance = np.maximum(distance, disagreement)
    margin = scale * (_LEAST + _GROWTH * np.sqrt(predictive_entropy)) / np.sqrt(passes)
    return np.abs(distance) > margin
