"""`dropserve-train calibrate --images`: calibration of any network on its user's labelled data."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.arrays import Array
from model.checkpoint import AnyCheckpoint, load_any_checkpoint, save_checkpoint
from model.engines import build_engine
from model.layered import InputSpec, LayeredNetwork
from model.network import MLPConfig
from model.uncertainty.calibration import apply_temperature
from model.uncertainty.statistics import entropy
from training.answers import predict_all, sample_all
from training.calibrate import (
    ESTIMATOR,
    LEVELS,
    PASSES,
    SEED,
    abstention_threshold,
    fit_temperature,
    least_probability,
)
from training.config import CalibrationRules
from training.errors import TrainingError
from training.metrics import Labels, score

_LEAST_INPUTS = 100


def calibrate_on(
    data: Path, checkpoint_path: Path, output: Path, rules: CalibrationRules
) -> AnyCheckpoint:
    """Fits temperatures, thresholds and prediction sets on the data; writes the checkpoint.

    The network must not have been trained on them.

    Args:
        data: an .npz file; see `load_labelled`.
        checkpoint_path: of any network, calibrated or not.
        output: may be the same file.
        rules: what the thresholds keep to.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        TrainingError: the data cannot be used.
    """
    checkpoint = load_any_checkpoint(checkpoint_path)
    config = checkpoint.network.config
    is_layered = isinstance(checkpoint.network, LayeredNetwork)
    spec = config.input if is_layered else _spec_of(config)  # type: ignore[union-attr, arg-type]
    inputs, labels = load_labelled(data, spec, config.labels)
    engine = build_engine(checkpoint.network)
    deterministic = predict_all(engine, inputs)
    mc = sample_all(engine, inputs, passes=PASSES, seed=SEED)
    fitted = {
        "predict": _fit(deterministic, entropy(deterministic), labels, rules),
        "mc": _fit(mc.mean, mc.predictive_entropy, labels, rules),
    }
    calibration = {
        "temperature": fitted["predict"]["temperature"],
        "mc_temperature": fitted["mc"]["temperature"],
        "thresholds": {mode: each["threshold"] for mode, each in fitted.items()},
        "conformal": {
            str(level): {mode: each["quantiles"][level] for mode, each in fitted.items()}
            for level in LEVELS
        },
        "fitted_with": {
            "passes": PASSES,
            "estimator": ESTIMATOR,
            "images": len(labels),
            "seed": SEED,
            "rules": asdict(rules),
        },
    }
    measured = {mode: each["measured"] for mode, each in fitted.items()}
    metrics = {**checkpoint.metrics, "calibrated_validation": measured}
    calibrated = replace(checkpoint, calibration=calibration, metrics=metrics)
    return replace(calibrated, version=save_checkpoint(output, calibrated))


def load_labelled(path: Path, spec: InputSpec, names: tuple[str, ...]) -> tuple[Any, Labels]:
    """The inputs, (N, ...) as requests send them, and the index of each one's class, (N,).

    Args:
        path: an .npz file with the arrays `inputs` and `labels`; the labels are class indices, or
            the classes' names.
        spec: of the network's input.
        names: of the classes.

    Raises:
        TrainingError: the file cannot be read, or does not fit the network.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            inputs, labels = saved["inputs"], saved["labels"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: --images needs an .npz file with the arrays inputs and labels"
        ) from error
    if inputs.shape[1:] != spec.shape or labels.shape != inputs.shape[:1]:
        wanted = ", ".join(["N", *map(str, spec.shape)])
        raise TrainingError(
            f"{path}: inputs must have the shape ({wanted}) and labels (N), not {inputs.shape} "
            f"and {labels.shape}"
        )
    if len(inputs) < _LEAST_INPUTS:
        raise TrainingError(f"{path}: at least {_LEAST_INPUTS} inputs are needed")
    if spec.dtype == "uint8" and inputs.dtype != np.uint8:
        raise TrainingError(f"{path}: inputs must be uint8, not {inputs.dtype}")
    if inputs.dtype.kind not in "fiu" or not np.isfinite(inputs).all():
        raise TrainingError(f"{path}: inputs must be finite numbers")
    if labels.dtype.kind == "U":
        numbers = {name: number for number, name in enumerate(names)}
        labels = np.array([numbers.get(name, -1) for name in labels.tolist()])
    if labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < len(names))).all():
        raise TrainingError(
            f"{path}: labels must be 0 to {len(names) - 1}, or the names of the classes"
        )
    return inputs, labels.astype(np.int64)


def _spec_of(config: MLPConfig) -> InputSpec:
    return InputSpec(config.input_shape, "uint8")


def _fit(probs: Array, uncertainty: Array, labels: Labels, rules: CalibrationRules) -> Any:
    """Temperature, threshold and conformal quantiles of one mode, and its scores."""
    temperature = fit_temperature(probs, labels)
    probabilities = apply_temperature(probs, temperature)
    wrong = probs.argmax(axis=1) != labels
    threshold = abstention_threshold(uncertainty, wrong, rules)
    scores = score(probabilities, labels)
    measured = {"error": scores.error, "nll": scores.nll, "ece": scores.ece}
    if threshold is not None:
        accepted = uncertainty <= threshold
        errors = (wrong & accepted).sum() / max(int(accepted.sum()), 1)
        measured |= {"coverage": accepted.mean(), "accepted_error": errors}
    return {
        "temperature": temperature,
        "threshold": threshold,
        "quantiles": {level: least_probability(probabilities, labels, level) for level in LEVELS},
        "measured": {name: round(float(value), 6) for name, value in measured.items()},
    }
