"""State dicts of torch, `.safetensors` or `.pt`: tensors only, so the user names the layers.

Each layer is one word: the name of a module that has tensors, or of a function; settings follow a
colon. An example: `conv1:padding=2 relu max_pool2d:2 flatten fc1 relu dropout:0.5 fc2`.
"""

import io
import pickletools  # nosec B403: it lists a pickle's instructions, and runs none
from collections.abc import Sequence
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from model.layers import (
    AveragePool2dLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    Pair,
    ReluLayer,
    Shape,
    TanhLayer,
)
from training.errors import TrainingError
from training.importing.archives import MOST_JSON_BYTES, Archive
from training.importing.drafts import Draft, unsupported

_EPSILON = 1e-5  # torch's own default
_PLAIN: dict[str, type[Layer]] = {"relu": ReluLayer, "tanh": TanhLayer, "flatten": FlattenLayer}
_FUNCTIONS = "relu, tanh, flatten, max_pool2d, average_pool2d, dropout, dropout2d, softmax"
# What torch.save writes of a state dict calls nothing else.
_NAMES = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage"}


def read_state_dict(content: bytes, words: Sequence[str], shape: Shape) -> Draft:
    """The network of a state dict, whose layers and whose input's shape the user names.

    Raises:
        TrainingError: the file is damaged, or does not fit the layers.
    """
    if not words or not shape:
        raise TrainingError(
            "a state dict has no layers: name them in order with --layers, and the shape of one "
            "input with --input-shape"
        )
    is_archive = content.startswith(b"PK")
    found = _read_torch(content) if is_archive else _read_safetensors(content)
    # Batch normalisation counts its batches, which is of no use.
    tensors = {key: found[key] for key in found if not key.endswith(".num_batches_tracked")}
    draft = Draft(shape)
    used: set[str] = set()
    for word in words:
        name, _, settings = word.partition(":")
        mine = {
            key.removeprefix(f"{name}."): key for key in tensors if key.rpartition(".")[0] == name
        }
        used |= set(mine.values())
        arrays = {key: tensors[full] for key, full in mine.items()}
        _add(draft, name, arrays, _settings(word, settings))
    if unused := sorted(tensors.keys() - used):
        raise TrainingError(f"--layers does not use {', '.join(unused[:5])}")
    return draft


def _read_safetensors(content: bytes) -> dict[str, Any]:
    if not 0 < int.from_bytes(content[:8], "little") <= MOST_JSON_BYTES:
        raise TrainingError("it is no safetensors file, or its header is too long")
    try:
        found = deserialize(content)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise TrainingError(f"it is no safetensors file: {' '.join(str(error).split())}") from error
    for name, tensor in found:
        if tensor["dtype"] != "F32" and not name.endswith(".num_batches_tracked"):
            raise TrainingError(f"{name} is {tensor['dtype']}; only float32 is supported")
    return {
        name: np.frombuffer(tensor["data"], "<f4").reshape(tensor["shape"])
        for name, tensor in found
        if tensor["dtype"] == "F32"
    }


def _read_torch(content: bytes) -> dict[str, Any]:
    archive = Archive(content)
    pickles = [name for name in archive.names if name.endswith("data.pkl")]
    if len(pickles) != 1:
        raise TrainingError("it is no file of torch.save")
    _check_pickle(archive.read(pickles[0], MOST_JSON_BYTES))
    import torch

    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of it
        raise TrainingError("torch cannot load it with weights_only") from error
    if not isinstance(found, dict):
        raise TrainingError("it holds no state dict")
    arrays = {}
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise TrainingError(f"it holds more than a state dict: {str(name)[:80]!r}")
        if tensor.numel() * tensor.element_size() > len(content):
            raise TrainingError(f"{name} has more numbers than the file")
        arrays[name] = tensor.numpy()
    return arrays


def _check_pickle(content: bytes) -> None:
    """Refuses a pickle that names anything but what a state dict of float32 needs."""
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
                raise TrainingError(f"it holds more than a state dict: {opcode.name}")
            known = argument in _NAMES or str(argument) == "torch LongStorage"
            if opcode.name == "GLOBAL" and not known:
                raise TrainingError(f"it holds more than a state dict of float32: {argument}")
    except ValueError as error:
        raise TrainingError("its pickle is damaged") from error


def _settings(word: str, text: str) -> dict[str, float]:
    """The settings after the colon; one without a name is called `value`."""
    found = {}
    for each in filter(None, text.split(",")):
        name, _, number = each.rpartition("=")
        try:
            found[name or "value"] = float(number)
        except ValueError:
            raise TrainingError(f"--layers has {word!r}, whose settings are no numbers") from None
    return found


def _add(draft: Draft, name: str, arrays: dict[str, Any], settings: dict[str, float]) -> None:
    def pair(key: str, default: int) -> Pair:
        number = settings.pop(key, default)
        least = 0 if key == "padding" else 1
        if not least <= number < 2**16 or number != int(number):
            raise TrainingError(f"{name} has an impossible {key}: {number:g}")
        return int(number), int(number)

    if "running_mean" in arrays:
        epsilon = settings.pop("eps", _EPSILON)
        statistics = arrays.pop("running_mean"), arrays.pop("running_var", 0.0)
        learnt = arrays.pop("weight", None), arrays.pop("bias", None)
        draft.add_batch_norm(name, *statistics, epsilon, *learnt)
    elif "weight" in arrays:
        weight = arrays.pop("weight")
        outputs = len(weight) if weight.ndim else 0
        tensors = {"weight": weight, "bias": arrays.pop("bias", np.zeros(outputs))}
        if weight.ndim == 4:
            (rows, columns), stride = pair("padding", 0), pair("stride", 1)
            sides = (rows, rows, columns, columns)
            others = pair("dilation", 1), pair("groups", 1)[0]
            size = weight.shape[2], weight.shape[3]
            draft.add(name, Conv2dLayer(outputs, size, stride, sides, *others), tensors)
        elif weight.ndim == 2:
            draft.add(name, LinearLayer(outputs), tensors)
        else:
            raise unsupported(name, f"a layer with weights of shape {weight.shape}")
    elif name in _PLAIN:
        draft.add(name, _PLAIN[name]())
    elif name in ("dropout", "dropout2d"):
        rate = settings.pop("value", -1.0)
        draft.add_dropout(name, rate, whole_channels=name == "dropout2d")
    elif name in ("max_pool2d", "average_pool2d"):
        size = pair("value", 0)
        stride = pair("stride", size[0])
        layer = MaxPool2dLayer if name == "max_pool2d" else AveragePool2dLayer
        draft.add(name, layer(size, stride))
    elif name == "softmax":
        draft.end_in(name, "softmax")
    else:
        raise TrainingError(
            f"--layers has {name!r}, which is neither a module of the state dict nor one of "
            f"{_FUNCTIONS}"
        )
    if settings or arrays:
        raise TrainingError(f"{name} has unknown {', '.join([*settings, *arrays])}")
