"""Fits when a decision has settled, on validation digits and kept-back outliers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.sampling.settling import LOOKS, has_settled
from model.uncertainty.calibration import Calibration, read_calibration
from training.answers import McAnswers
from training.config import CalibrationRules
from training.selection import upper_bound

# From the widest margin to the narrowest.
_SCALES = tuple(round(3 - 0.05 * step, 2) for step in range(56))

Answers = Mapping[int, McAnswers]


def looks_before(passes: int) -> list[int]:
    """The looks of a request with this number of passes, before its last."""
    return [look for look in LOOKS if look < passes]


def fit_settling(
    document: Mapping[str, Any],
    digits: Answers,
    outliers: Answers | None,
    references: Sequence[int],
    rules: CalibrationRules,
) -> dict[str, Any]:
    """The rule of `until=decision`, for the checkpoint's own threshold and each target error.

    From the widest margin on, each is tested (Learn then Test, fixed sequence): the decision at the
    stop must differ from that of all passes on at most `settling_share` of the digits and
    `settling_outlier_share` of the outliers, whatever the request's passes are among `references`.

    Args:
        document: the calibration, with thresholds.
        digits: answers to the validation images with each number of passes: all looks, and the
            references.
        outliers: the same to the kept-back outliers; None: there are none.
        references: numbers of passes that requests may have.
        rules: the shares, and the confidence.

    Returns:
        `share`, `confidence`, `scales` and `mean_passes`: the latter two by target error, and null
        where no margin passes the test. The mean is that of digits with the most passes.
    """
    targets = read_calibration(document, "mc").targets
    scales: dict[str, float | None] = {}
    means: dict[str, float | None] = {}
    for name, target in {"default": None, **{str(level): level for level in targets}}.items():
        calibrations = {passes: _calibration(document, passes, target) for passes in digits}
        scales[name] = means[name] = None
        for scale in _SCALES:
            found = [disagreements(digits, calibrations, passes, scale) for passes in references]
            bounds = [_bound(differ, rules) for differ, _ in found]
            is_kept = max(bounds) <= rules.settling_share
            if is_kept and outliers is not None:
                bounds = [
                    _bound(disagreements(outliers, calibrations, passes, scale)[0], rules)
                    for passes in references
                ]
                is_kept = max(bounds) <= rules.settling_outlier_share
            if not is_kept:
                break
            scales[name] = scale
            means[name] = round(float(found[-1][1].mean()), 2)
    return {
        "share": rules.settling_share,
        "confidence": rules.confidence,
        "scales": scales,
        "mean_passes": means,
    }


def _calibration(document: Mapping[str, Any], passes: int, target: float | None) -> Calibration:
    calibration = read_calibration(document, "mc", passes)
    return calibration if target is None else calibration.at(target)


def disagreements(
    answers: Answers, calibrations: Mapping[int, Calibration], passes: int, scale: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Per image: whether the decision at the stop differs from that of all passes; the stop."""
    whole = _decisions(answers[passes], calibrations[passes])
    stops = np.full(len(whole), passes)
    decisions = whole.copy()
    for look in reversed(looks_before(passes)):
        calibration = calibrations[look]
        if calibration.threshold is None:
            continue
        found = answers[look]
        settled = has_settled(
            found.predictive_entropy, found.mutual_information, calibration, look, scale
        )
        decisions[settled] = _decisions(found, calibration)[settled]
        stops[settled] = look
    return decisions != whole, stops


def _decisions(found: McAnswers, calibration: Calibration) -> NDArray[np.int64]:
    """Per image the class that is accepted; -1: none is."""
    accepted = np.zeros(len(found.mean), bool)
    if calibration.threshold is not None:
        accepted = found.predictive_entropy <= calibration.threshold
        if calibration.unfamiliar_threshold is not None:
            accepted &= found.mutual_information <= calibration.unfamiliar_threshold
    return np.where(accepted, found.mean.argmax(axis=1), -1)


def _bound(differ: NDArray[np.bool_], rules: CalibrationRules) -> float:
    return float(upper_bound(np.int64(differ.sum()), np.int64(len(differ)), rules.confidence))
