"""`dropserve-train calibrate --images`: calibration of any network on its user's labelled data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint import AnyCheckpoint, load_any_checkpoint, save_checkpoint
from model.layered import InputSpec, LayeredNetwork
from model.network import MLPConfig
from training.calibrate import fit
from training.config import CalibrationRules
from training.data import Images
from training.errors import TrainingError
from training.metrics import Labels

_LEAST_INPUTS = 100


def calibrate_on(
    data: Path, checkpoint_path: Path, output: Path, rules: CalibrationRules
) -> AnyCheckpoint:
    """Fits all that `calibrate` does, on the data; writes the checkpoint.

    The network must not have been trained on them. Outliers are not known for any network, so the
    thresholds say nothing about them.

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
    calibrated = fit(checkpoint, Images(inputs, labels), {}, rules)
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
