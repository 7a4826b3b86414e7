"""Calibration: temperatures, thresholds for abstaining, and conformal prediction sets.

`dropserve-train calibrate` fits all of it on validation images, separately for deterministic and
for MC answers, and stores it in the checkpoint.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from model import literals
from model.arrays import Array, Probs
from model.compiling import compiled
from model.elementary import exp, log
from model.literals import Mode

# What checkpoints of before lack, and why.
_LATER_KEYS = ("target_errors", "until_decision", "entropy_histogram")
_MISSING = "the checkpoint was calibrated before there was this; run dropserve-train calibrate"
_TEMPERATURE_KEYS: dict[Mode, str] = {"predict": "temperature", "mc": "mc_temperature"}


@dataclass(frozen=True)
class OperatingPoint:
    """What a target error asks for.

    Attributes:
        threshold: the largest predictive entropy, nats, that is accepted.
        coverage: the share of the validation images that are accepted.
    """

    threshold: float
    coverage: float


@dataclass(frozen=True)
class Calibration:
    """The calibration of one mode.

    Attributes:
        temperature: see `apply_temperature`.
        threshold: the largest predictive entropy, nats, that is accepted; None if it was not
            fitted, which leaves decisions out of the answers.
        conformal_quantiles: for each coverage level the argument of `prediction_set`.
        unfamiliar_threshold: the largest mutual information, nats, that is accepted; None if it was
            not fitted.
        targets: by the largest error among accepted answers, those that the validation images
            support.
    """

    temperature: float = 1.0
    threshold: float | None = None
    conformal_quantiles: Mapping[float, float] = field(default_factory=dict)
    unfamiliar_threshold: float | None = None
    targets: Mapping[float, OperatingPoint] = field(default_factory=dict)

    def at(self, target_error: float) -> "Calibration":
        """The same with the threshold of a target error, which may be None, and no other."""
        point = self.targets.get(target_error)
        threshold = None if point is None else point.threshold
        return replace(self, threshold=threshold, unfamiliar_threshold=None)


def read_calibration(
    document: Mapping[str, Any], mode: Mode, passes: int | None = None
) -> Calibration:
    """Reads the calibration of one mode from a checkpoint's JSON.

    Args:
        document: the checkpoint's `calibration`.
        mode: whether dropout is on.
        passes: how many passes an answer with dropout has. Between two numbers for which the
            checkpoint was calibrated, every value is linear in 1 / passes, as the bias of a mean's
            entropy is. None, or a checkpoint that was calibrated for one number only: that one.

    Raises:
        KeyError, TypeError, ValueError: the document is damaged.
    """
    if mode == "mc" and passes is not None and document.get("by_passes"):
        return _interpolate(document["by_passes"], passes)
    temperature = _number(document[_TEMPERATURE_KEYS[mode]])
    if temperature <= 0:
        raise ValueError(f"a temperature must be above 0, not {temperature}")
    threshold = document["thresholds"][mode]
    return Calibration(
        temperature=temperature,
        threshold=None if threshold is None else _number(threshold),
        conformal_quantiles={
            float(level): _number(fitted[mode])
            for level, fitted in dict(document["conformal"]).items()
            if fitted is not None
        },
        targets={
            float(level): OperatingPoint(_number(point["threshold"]), _number(point["coverage"]))
            for level, point in ((document.get("target_errors") or {}).get(mode) or {}).items()
            if point is not None
        },
    )


def read_settling(document: Mapping[str, Any]) -> dict[float | None, float]:
    """How sure a decision must be before sampling ends; see `model.sampling.settling`.

    Returns:
        By target error the scale of the margin; None is the checkpoint's own threshold. It is empty
        if the checkpoint has no rule.

    Raises:
        KeyError, TypeError, ValueError: the document is damaged.
    """
    scales = (document.get("until_decision") or {}).get("scales") or {}
    return {
        None if level == "default" else float(level): _number(scale)
        for level, scale in scales.items()
        if scale is not None
    }


def read_entropy_shares(document: Mapping[str, Any], mode: Mode) -> list[float] | None:
    """The share of validation images up to each of `ENTROPY_BOUNDS`; None: there are none.

    Raises:
        KeyError, TypeError, ValueError: the document is damaged.
    """
    histogram, bounds = document.get("entropy_histogram"), literals.ENTROPY_BOUNDS
    if histogram is None or tuple(histogram["bounds"]) != bounds:
        return None
    shares = [_number(share) for share in histogram[mode]]
    if len(shares) != len(bounds):
        raise ValueError("a histogram has a share for each of its bounds")
    return shares


def with_missing(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with null for what it lacks, and the reasons for that as `missing`."""
    whole = {**{key: document.get(key) for key in _LATER_KEYS}, **document}
    missing = {key: _MISSING for key in _LATER_KEYS if whole[key] is None}
    return {**whole, "missing": missing} if missing else whole


def _interpolate(rows: Sequence[Mapping[str, Any]], passes: int) -> Calibration:
    """The calibration for a number of passes, from rows of ascending numbers."""
    fitted = [int(row["passes"]) for row in rows]
    above = min(bisect_left(fitted, passes), len(rows) - 1)
    below = max(above - 1, 0) if fitted[above] > passes else above
    few, many = rows[below], rows[above]
    share = 0.0
    if below != above:
        share = (1 / fitted[below] - 1 / passes) / (1 / fitted[below] - 1 / fitted[above])

    def between(*path: str) -> float | None:
        first, last = (_value_at(row, path) for row in (few, many))
        return None if first is None or last is None else first + share * (last - first)

    quantiles = {level: between("conformal", level) for level in few["conformal"]}
    targets = {}
    for level in few.get("target_errors") or {}:
        limit, coverage = (
            between("target_errors", level, key) for key in ("threshold", "coverage")
        )
        if limit is not None and coverage is not None:
            targets[float(level)] = OperatingPoint(limit, coverage)
    temperature = between("temperature")
    if temperature is None or temperature <= 0:
        raise ValueError("a temperature must be above 0")
    return Calibration(
        temperature,
        between("threshold"),
        {float(level): least for level, least in quantiles.items() if least is not None},
        between("unfamiliar_threshold"),
        targets,
    )


def _value_at(row: Any, path: Sequence[str]) -> float | None:
    for key in path:
        row = None if row is None else row[key]
    return None if row is None else _number(row)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("calibration must hold finite numbers")
    return float(value)


def apply_temperature(probs: Probs, temperature: float) -> Array:
    """Computes softmax(log(probs) / temperature).

    If `probs` is a softmax of logits, this is softmax(logits / temperature); Guo et al. 2017, "On
    Calibration of Modern Neural Networks", section 4.2.

    Args:
        probs: (C,) or (B, C); rows sum to 1.
        temperature: above 0. Values above 1 soften the distribution, values below 1 sharpen it, and
            1 changes no bit.

    Returns:
        float64, of the same shape.
    """
    p = np.array(probs, np.float64, order="C")
    if temperature != 1:
        _soften(p.reshape(-1, p.shape[-1]), temperature)
    return p


@compiled("void(float64[:, ::1], float64)")
def _soften(probs: Array, temperature: float) -> None:
    """Raises probabilities, (B, C), to the power 1 / temperature and normalises them, in place."""
    for i in range(len(probs)):
        p = probs[i]
        largest = p.max()  # by which all are divided, so that the powers do not all underflow
        total = 0.0
        for c in range(len(p)):
            p[c] = exp(log(p[c] / largest) / temperature) if p[c] > 0 else 0.0
            total += p[c]
        for c in range(len(p)):
            p[c] /= total


def prediction_set(probabilities: Array | Sequence[float], conformal_quantile: float) -> list[int]:
    """Returns all classes whose probability reaches the quantile, and always the likeliest.

    The conformal quantile of a coverage level is fitted such that the set contains the true class
    of an image at least with that frequency, if the image is drawn like the validation images. This
    is split conformal prediction with the score 1 - p(true class); Sadinle, Lei and Wasserman 2019,
    "Least Ambiguous Set-Valued Classifiers with Bounded Error Levels".

    Args:
        probabilities: calibrated, (C,).
        conformal_quantile: the smallest probability of a class in the set, 0 to 1.

    Returns:
        Class indices, the likeliest first.
    """
    p = np.asarray(probabilities)
    size = max(1, int(np.count_nonzero(p >= conformal_quantile)))
    classes: list[int] = np.argsort(-p, kind="stable")[:size].tolist()
    return classes
