"""From the file that the command line names to a checkpoint."""

import hashlib
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from model.arrays import Floats
from model.errors import ShapeError
from model.files import printable
from model.layered import InputSpec, LayeredConfig, LayeredNetwork, as_mlp
from model.layers import DropoutLayer
from model.network import MLP
from training.config import ImportOptions
from training.errors import TrainingError
from training.importing.archives import Archive, read_file
from training.importing.drafts import Draft
from training.importing.exported import read_exported
from training.importing.keras import read_keras, read_keras_h5
from training.importing.state_dicts import read_state_dict

if TYPE_CHECKING:
    from model.engines.protocol import Engine

# Float32 in another order.
_TOLERANCE = 1e-5
_MOST_CHARACTERS = 400  # of a message
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def import_network(options: ImportOptions) -> None:
    """Reads the file, compares it with saved outputs if there are any, and writes the checkpoint.

    Raises:
        TrainingError: the file is damaged or has something unknown, or the outputs differ.
    """
    content = read_file(options.file)
    try:
        with warnings.catch_warnings(action="ignore"):  # of libraries, about what is damaged
            format_name, draft = _read(content, options)
        network = _network(draft, options)
    except (TrainingError, ShapeError) as error:
        raise TrainingError(f"{options.file}: {_line(error)}") from error
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # Any of a file's values can be missing, or of another type.
        reason = _line(f"{type(error).__name__}: {error}")
        raise TrainingError(f"{options.file}: the description is damaged: {reason}") from error
    # Only now, since both take longer to import than a file takes to be refused.
    from model.checkpoint import VERSION_DIGITS, AnyCheckpoint, save_checkpoint
    from model.engines import build_engine

    engine = build_engine(network)
    checked = _check(engine, draft, options) if options.check else ""
    source = {"file": options.file.name, "format": format_name}
    source["version"] = hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]
    training = {"name": options.name or options.file.stem, "imported": source}
    version = save_checkpoint(options.output, AnyCheckpoint(network, training=training))
    for note in draft.notes:
        print(_line(note))
    rates = ", ".join(f"{site.rate:.3f}" for site in engine.dropout_sites)
    print(
        f"{options.output}: version {version}, {network.parameter_count():,} parameters, dropout "
        f"rates {rates}, computed by {type(engine).__name__}{checked}"
    )


def _line(text: object) -> str:
    """One line for the terminal, of what may have words of the file in it."""
    return printable(" ".join(str(text).split()))[:_MOST_CHARACTERS]


def _read(content: bytes, options: ImportOptions) -> tuple[str, Draft]:
    """The name of the file's format, and the network in it."""
    words, shape = options.layers, options.input_shape
    if content.startswith(_HDF5_SIGNATURE):
        return "keras h5", read_keras_h5(content)
    if content.startswith(b"PK"):
        names = Archive(content).names
        if "config.json" in names:
            return "keras", read_keras(content)
        if any(name.endswith("data.pkl") for name in names):
            return "torch state dict", read_state_dict(content, words, shape)
        return "torch exported program", read_exported(content)
    if content.startswith(b"\x80"):
        raise TrainingError(
            "it is a pickle, which can run code; save a state dict with torch.save or safetensors"
        )
    return "safetensors", read_state_dict(content, words, shape)


def _network(draft: Draft, options: ImportOptions) -> MLP | LayeredNetwork:
    """The network with the input and the labels that the options describe.

    An MLP for digits is a checkpoint of format 1, which every command takes.
    """
    is_digit = options.preparation == "digit"
    given = options.scale is not None or options.mean or options.std
    if given and draft.scale is not None:
        raise TrainingError(
            "the network scales its inputs itself; leave --scale, --mean, --std out"
        )
    scale = draft.scale if options.scale is None else options.scale
    if scale is None:
        scale = 1 / 255 if is_digit else 1.0
    spec = InputSpec(
        draft.input_shape,
        "uint8" if is_digit or options.dtype == "uint8" else "float32",
        scale,
        options.mean or draft.mean,
        options.std or draft.std,
        draft.channels,
        options.preparation,  # type: ignore[arg-type]  # held against its choices
    )
    classes = draft.shape[-1]
    labels = options.labels or tuple(map(str, range(min(classes, 100_000))))
    if len(draft.shape) == 1 and len(labels) != classes:
        raise TrainingError(f"there are {classes} classes, and --labels names {len(labels)}")
    config = LayeredConfig(spec, labels, tuple(draft.layers))
    network = LayeredNetwork(config, draft.tensors)
    mlp = as_mlp(network)
    if mlp is None and not any(isinstance(layer, DropoutLayer) for layer in draft.layers):
        raise TrainingError("the network has no dropout, so that its passes cannot differ")
    return mlp if mlp is not None and is_digit else network


def _check(engine: "Engine", draft: Draft, options: ImportOptions) -> str:
    """Compares deterministic answers with saved ones.

    Raises:
        TrainingError: they differ, or the file does not fit the network.
    """
    path = options.check
    assert path is not None
    try:
        with np.load(path, allow_pickle=False) as saved:
            inputs, outputs = saved["inputs"], np.asarray(saved["outputs"], np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: --check needs an .npz file with the arrays inputs and outputs"
        ) from error
    if inputs.shape[1:] != draft.input_shape or len(inputs) == 0:
        raise TrainingError(
            f"{path}: inputs must have the shape (N, {', '.join(map(str, draft.input_shape))}), "
            f"not {inputs.shape}"
        )
    ours = np.stack([_output(engine, each, draft) for each in inputs])
    if outputs.shape != ours.shape:
        raise TrainingError(f"{path}: outputs must have the shape {ours.shape}")
    # Logits may be large.
    size = np.maximum(1.0, np.abs(outputs).max(axis=1, keepdims=True))
    difference = float((np.abs(ours - outputs) / size).max())
    if not difference <= _TOLERANCE:
        raise TrainingError(
            f"{path}: outputs differ by {difference:.2g}; inputs must be what requests will send, "
            "before --scale, --mean and --std"
        )
    return f"; {len(inputs)} outputs agree within {max(difference, 1e-9):.1g}"


def _output(engine: "Engine", values: Any, draft: Draft) -> Floats | Any:
    """What the library's network puts out for one input."""
    if draft.output == "logits":
        return engine.predict_logits(values)
    from model.engines.protocol import predict_probs

    probs = predict_probs(engine, values)
    if draft.output == "softmax":
        return probs
    logits = engine.predict_logits(values).astype(np.float64)
    return logits - logits.max() - math.log(np.exp(logits - logits.max()).sum())
