"""Checkpoint files: the weights as safetensors, and one JSON document that describes the network.

Format 1 holds an MLP for images; format 2 holds any network of `model.layered`.

Files are written atomically and loaded strictly, without pickle. Identical trainings give identical
files: the JSON is canonical, contains no time, and is the only metadata key, since safetensors
writes several keys in random order.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, get_args

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_tensors

from model.arrays import Floats
from model.errors import CheckpointError, ShapeError
from model.files import DEFAULT_CHECKPOINT as DEFAULT_CHECKPOINT
from model.files import read_bounded, write_atomically
from model.layered import LayeredConfig, LayeredNetwork, layered_config_from
from model.literals import Mode
from model.network import MLP, Linear, MLPConfig
from model.uncertainty.calibration import (
    read_calibration,
    read_entropy_shares,
    read_settling,
)

Network: TypeAlias = MLP | LayeredNetwork

FORMAT_VERSIONS = {MLP: 1, LayeredNetwork: 2}
METADATA_KEY = "dropserve"
VERSION_DIGITS = 12
# Of a file: 64 million weights, a hundred times as many as the committed network has.
MOST_BYTES = 256 * 2**20
# Of the description, which names at most a thousand layers.
MOST_HEADER_BYTES = 8 * 2**20

_FLOAT32 = "F32"  # as safetensors names it


def no_calibration() -> dict[str, Any]:
    """Returns the calibration of an uncalibrated network: temperatures of 1 and no thresholds."""
    return {
        "temperature": 1.0,
        "mc_temperature": 1.0,
        "fitted_with": None,
        "thresholds": {"predict": None, "mc": None},
        "conformal": {"0.99": None, "0.995": None, "0.999": None},
    }


@dataclass(frozen=True)
class AnyCheckpoint:
    """A network and its description.

    Attributes:
        network: the network, with the checkpoint's weights and configuration.
        calibration: temperatures, thresholds and conformal quantiles, fitted on validation data;
            see `read_calibration`.
        training: data set, recipe, dropout rates used in training, seed, MD5 of the data.
        metrics: measurements of the network, for the model card.
        name: the model's name in answers: its own, or the data set that it was trained on.
        version: the first 12 hexadecimal digits of the file's SHA-256; empty before it is saved.
    """

    network: Network
    calibration: Mapping[str, Any] = field(default_factory=no_calibration)
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    @property
    def name(self) -> str:
        return str(self.training.get("name") or self.training.get("dataset", "unknown"))

    def card(self) -> dict[str, Any]:
        """Returns the JSON document inside the file, which `GET /model` shows."""
        return {
            "format_version": FORMAT_VERSIONS[type(self.network)],
            "config": _describe(self.network.config),
            "calibration": dict(self.calibration),
            "training": dict(self.training),
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True)
class Checkpoint(AnyCheckpoint):
    """An MLP for images, which training makes, and its description."""

    network: MLP


def save_checkpoint(path: Path, checkpoint: AnyCheckpoint) -> str:
    """Writes a checkpoint atomically: a reader sees the old file or the whole new one.

    Returns:
        The version of the written file.
    """
    network = checkpoint.network
    tensors = network.tensors if isinstance(network, LayeredNetwork) else _tensors_of(network)
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    document = json.dumps(checkpoint.card(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    content = save_tensors(tensors, metadata={METADATA_KEY: document})
    write_atomically(path, content)
    return _version(content)


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads the checkpoint of an MLP for images; see `load_any_checkpoint`.

    Raises:
        CheckpointError: the file cannot be used, or holds another network.
    """
    found = load_any_checkpoint(path)
    if isinstance(found.network, LayeredNetwork):
        raise CheckpointError(
            f"the checkpoint {path} holds an imported network of other layers or inputs, "
            "which this command cannot use"
        )
    return Checkpoint(
        found.network, found.calibration, found.training, found.metrics, found.version
    )


def load_any_checkpoint(path: Path) -> AnyCheckpoint:
    """Reads a checkpoint, and checks that the tensors fit the description.

    Raises:
        CheckpointError: the file cannot be read, is truncated, a pickle or of another format, or a
            tensor has a wrong name, shape or dtype or a value that is not finite. The message is
            one line.
    """
    content = read_checkpoint_file(path)
    card, tensors = _parse(path, content)
    try:
        is_layered = card["format_version"] == FORMAT_VERSIONS[LayeredNetwork]
        read_config = layered_config_from if is_layered else _config_from
        config = read_config(card["config"])
        calibration, training, metrics = (
            _object_from(card, key) for key in ("calibration", "training", "metrics")
        )
        for mode in get_args(Mode):
            read_calibration(calibration, mode)
            read_entropy_shares(calibration, mode)
        read_settling(calibration)
        for row in calibration.get("by_passes", ()):
            read_calibration(calibration, "mc", row["passes"])
    except KeyError as error:
        raise CheckpointError(f"the checkpoint {path} has no {error} in its description") from error
    except (TypeError, ValueError, OverflowError, ShapeError) as error:
        raise CheckpointError(
            f"the checkpoint {path} has a damaged description: {_one_line(error)}"
        ) from error
    _check_tensors(path, tensors, config)
    arrays = {name: _float32_array(tensor) for name, tensor in tensors.items()}
    network: Network
    if isinstance(config, LayeredConfig):
        network = LayeredNetwork(config, arrays)
    else:
        named = _tensor_names(config)
        network = MLP(config, tuple(Linear(arrays[w], arrays[b]) for w, b in named))
    return AnyCheckpoint(network, calibration, training, metrics, _version(content))


def read_checkpoint_file(path: Path) -> bytes:
    """The bytes of a file that may be a checkpoint.

    Raises:
        CheckpointError: it is missing, no regular file, or larger than `MOST_BYTES`.
    """
    try:
        return read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def _parse(path: Path, content: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Returns the JSON document of a file, and each tensor's dtype, shape and bytes."""
    header_end = 8 + int.from_bytes(content[:8], "little")
    if MOST_HEADER_BYTES < header_end <= len(content):
        raise CheckpointError(
            f"the checkpoint {path} has a description of more than {MOST_HEADER_BYTES:,} bytes"
        )
    try:
        tensors = dict(deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        # Checked only now: a valid file begins with its header's length, which can be these bytes.
        if content.startswith((b"PK", b"\x80")):
            raise CheckpointError(
                f"the checkpoint {path} is a pickle or a torch archive; these can run code and are "
                "never loaded: convert it to safetensors"
            ) from error
        raise CheckpointError(
            f"the checkpoint {path} is truncated or no safetensors file: {_one_line(error)}"
        ) from error
    # The header is valid, or its tensors could not have been read.
    try:
        header = json.loads(content[8:header_end])
        card = json.loads(header["__metadata__"][METADATA_KEY])
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the checkpoint {path} was not written by dropserve-train"
        ) from error
    known = list(FORMAT_VERSIONS.values())
    if not isinstance(card, dict) or card.get("format_version") not in known:
        raise CheckpointError(
            f"the checkpoint {path} has another format_version than {' or '.join(map(str, known))}"
        )
    return card, tensors


def _object_from(card: Mapping[str, Any], key: str) -> dict[str, Any]:
    if not isinstance(card[key], dict):
        raise TypeError(f"{key} is no JSON object")
    return dict(card[key])


def _config_from(document: Mapping[str, Any]) -> MLPConfig:
    rows, columns = document["input_shape"]
    # `MLPConfig` does not check these, and a network would fail only when it answers.
    if not all(type(size) is int for size in (*document["layer_sizes"], rows, columns)):
        raise TypeError("layer_sizes and input_shape must be integers")
    if not all(isinstance(label, str) for label in document["labels"]):
        raise TypeError("labels must be strings")
    if not math.isfinite(document["mean"]) or not math.isfinite(document["std"]):
        raise ValueError("mean and std must be finite")
    return MLPConfig(
        layer_sizes=tuple(document["layer_sizes"]),
        dropout_rates=tuple(document["dropout_rates"]),
        input_shape=(rows, columns),
        labels=tuple(document["labels"]),
        mean=document["mean"],
        std=document["std"],
        activation=document.get("activation", "relu"),
        input_dropout_rate=document.get("input_dropout_rate", 0.0),
    )


def _describe(config: MLPConfig | LayeredConfig) -> dict[str, Any]:
    if isinstance(config, LayeredConfig):
        return config.describe()
    described = asdict(config)
    # Recorded only if it is not ReLU, so that files of ReLU networks keep their bytes.
    if described["activation"] == "relu":
        del described["activation"]
    if described["input_dropout_rate"] == 0:
        del described["input_dropout_rate"]
    return described


def _tensors_of(network: MLP) -> dict[str, Floats]:
    names = _tensor_names(network.config)
    return {
        name: array
        for pair, layer in zip(names, network.layers, strict=True)
        for name, array in zip(pair, layer, strict=True)
    }


def _tensor_names(config: MLPConfig) -> list[tuple[str, str]]:
    """The names of each layer's weights and biases in a file."""
    numbers = range(len(config.layer_sizes) - 1)
    return [(f"layers.{number}.weight", f"layers.{number}.bias") for number in numbers]


def _expected_shapes(config: MLPConfig | LayeredConfig) -> dict[str, tuple[int, ...]]:
    if isinstance(config, LayeredConfig):
        return config.tensor_shapes
    expected: dict[str, tuple[int, ...]] = {}
    for (weight, bias), shape in zip(_tensor_names(config), config.layer_shapes, strict=True):
        expected |= {weight: shape, bias: shape[:1]}
    return expected


def _check_tensors(
    path: Path, tensors: Mapping[str, Mapping[str, Any]], config: MLPConfig | LayeredConfig
) -> None:
    """Compares what the file has with the description, before anything is allocated for it."""
    expected = _expected_shapes(config)
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise CheckpointError(f"the checkpoint {path} lacks the tensor {name}")
        if name not in expected:
            raise CheckpointError(f"the checkpoint {path} has a tensor too many: {name!r}")
        shape, dtype = tuple(tensors[name]["shape"]), tensors[name]["dtype"]
        if shape != expected[name]:
            raise CheckpointError(
                f"the checkpoint {path} has {name} of shape {shape}, not {expected[name]}"
            )
        if dtype != _FLOAT32:
            raise CheckpointError(f"the checkpoint {path} has {name} as {dtype}, not {_FLOAT32}")
        if not np.isfinite(_float32_array(tensors[name])).all():
            raise CheckpointError(f"the checkpoint {path} has a value in {name} that is not finite")


def _float32_array(tensor: Mapping[str, Any]) -> Floats:
    # A copy, since the bytes in the file may not be aligned.
    return np.frombuffer(tensor["data"], "<f4").reshape(tensor["shape"]).astype(np.float32)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]
