"""What makes answers honest: temperatures, the threshold for abstaining, prediction sets.

All of it is fitted on validation images by `dropserve-train calibrate`, once for deterministic
answers and once for MC answers, and stored in the checkpoint.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.literals import Mode
from model.uncertainty.statistics import Array, Probs

_TINY = float(np.finfo(np.float64).tiny)
_TEMPERATURE_KEYS: dict[Mode, str] = {"predict": "temperature", "mc": "mc_temperature"}


@dataclass(frozen=True)
class Calibration:
    """What is fitted for one kind of answer.

    Attributes:
        temperature: see `apply_temperature`.
        threshold: the predictive entropy, nats, up to which an answer is accepted; None: not
            fitted, so that nothing is decided.
        least_probabilities: per coverage level of prediction sets, what `prediction_set` needs.
    """

    temperature: float = 1.0
    threshold: float | None = None
    least_probabilities: Mapping[float, float] = field(default_factory=dict)


def read_calibration(document: Mapping[str, Any], mode: Mode) -> Calibration:
    """One kind's part of a checkpoint's calibration.

    Raises:
        KeyError, TypeError, ValueError: the document is damaged.
    """
    temperature = _number(document[_TEMPERATURE_KEYS[mode]])
    if temperature <= 0:
        raise ValueError(f"a temperature must be above 0, not {temperature}")
    threshold = document["thresholds"][mode]
    return Calibration(
        temperature=temperature,
        threshold=None if threshold is None else _number(threshold),
        least_probabilities={
            float(level): _number(fitted[mode])
            for level, fitted in dict(document["conformal"]).items()
            if fitted is not None
        },
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("calibration must hold finite numbers")
    return float(value)


def apply_temperature(probs: Probs, temperature: float) -> Array:
    """softmax(log(probs) / temperature): above 1 softens, below 1 sharpens, 1 changes nothing.

    For a softmax of logits this is softmax(logits / temperature); Guo et al. 2017, "On Calibration
    of Modern Neural Networks", section 4.2.

    Args:
        probs: (C,) or (B, C); rows sum to 1.
        temperature: above 0.

    Returns:
        float64, of the same shape.
    """
    p = np.asarray(probs, dtype=np.float64)
    if temperature == 1:
        return p
    scaled = np.log(np.maximum(p, _TINY)) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    result: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return result


def prediction_set(probabilities: Array | Sequence[float], least_probability: float) -> list[int]:
    """The classes that the answer may be: every likely enough one, and always the likeliest.

    With `least_probability` fitted for a coverage level, sets contain the true class at least so
    often, for images drawn as the validation images were: split-conformal prediction with the score
    1 - p(true class); Sadinle, Lei and Wasserman 2019, "Least Ambiguous Set-Valued Classifiers".

    Args:
        probabilities: calibrated, (C,).
        least_probability: what a class needs.

    Returns:
        Class indices, the likeliest first.
    """
    p = np.asarray(probabilities)
    size = max(1, int(np.count_nonzero(p >= least_probability)))
    classes: list[int] = np.argsort(-p, kind="stable")[:size].tolist()
    return classes
