"""Keras's files: `.keras` archives and legacy `.h5`, with h5py only.

The description is JSON, of which a list of classes is understood; a `Lambda` layer, whose code a
file can hold, is refused like any other unknown layer. Kernels are for channels last, as Keras has
them, and become those for channels first.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model.layers import (
    AveragePool2dLayer,
    Conv2dLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    Pair,
    ReluLayer,
    Sides,
    TanhLayer,
)
from training.errors import TrainingError
from training.importing.archives import Archive, parse_json
from training.importing.drafts import Draft, same_padding, unsupported
from training.importing.hdf5 import Hdf5Content, read_hdf5

_SPATIAL = {"Conv2D", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D"}
_ACTIVATIONS: dict[str, type[Layer]] = {"relu": ReluLayer, "tanh": TanhLayer}
_WEIGHTS = "model.weights.h5"


class _Layer:
    """One layer of a description.

    Attributes:
        kind: its class.
        name: unique in the network.
        settings: of the class.
        arrays: its weights, in Keras's order.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.kind, self.settings = str(document["class_name"]), dict(document["config"])
        self.name = str(self.settings.get("name", self.kind))
        self.inputs = document.get("inbound_nodes")
        self.arrays: list[Any] = []
        if self.kind not in _READERS or document.get("registered_name") not in (None, self.kind):
            raise unsupported(self.name, f"a layer of the class {self.kind}")
        dtype = self.settings.get("dtype", "float32")
        dtype = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
        if self.kind != "InputLayer" and dtype not in ("float32", None):
            raise unsupported(self.name, f"the dtype {dtype}")

    def need(self, **allowed: Any) -> None:
        """Refuses settings with other values than those allowed, each a tuple."""
        for key, values in allowed.items():
            if key in self.settings and self.settings[key] not in values:
                raise unsupported(self.name, f"{key}={self.settings[key]!r}")

    def pair(self, key: str) -> Pair:
        """A setting of one or two positive integers."""
        value = self.settings[key]
        both = tuple(value) if isinstance(value, list) else (value, value)
        if len(both) != 2 or not all(type(each) is int and 0 < each < 2**16 for each in both):
            raise TrainingError(f"{self.name} has an impossible {key}: {value!r}")
        return both[0], both[1]


def read_keras(content: bytes) -> Draft:
    """The network in a `.keras` archive.

    Raises:
        TrainingError: it is damaged, or has something unknown.
    """
    archive = Archive(content)
    layers = _chain(archive.read_json("config.json"))
    weights = read_hdf5(archive.read(_WEIGHTS))
    counts: dict[str, int] = {}
    for layer in layers:
        # Groups are named by class and number, in the order of the layers, not by their names.
        snake = _snake_case(layer.kind)
        number = counts[snake] = counts.get(snake, -1) + 1
        group = f"layers/{snake}_{number}" if number else f"layers/{snake}"
        index = 0
        while (path := f"{group}/vars/{index}") in weights.arrays:
            layer.arrays.append(weights.arrays[path])
            index += 1
    return _draft(layers)


def read_keras_h5(content: bytes) -> Draft:
    """The network in a legacy `.h5` file; see `read_keras`."""
    stored = read_hdf5(content)
    try:
        config = stored.attributes["@model_config"]
    except KeyError:
        raise TrainingError(
            "the file holds weights but no network; save the whole model with model.save()"
        ) from None
    layers = _chain(parse_json(config, "model_config"))
    for layer in layers:
        layer.arrays = _legacy_arrays(stored, layer.name)
    return _draft(layers)


def _legacy_arrays(stored: Hdf5Content, name: str) -> list[Any]:
    group = f"model_weights/{name}"
    names = stored.attributes.get(f"{group}@weight_names", [])
    try:
        return [stored.arrays[f"{group}/{each}"] for each in names]
    except KeyError as error:
        raise TrainingError(f"{name} lacks the weights {error}") from None


def _snake_case(name: str) -> str:
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _chain(document: Mapping[str, Any]) -> list[_Layer]:
    """The layers of a network that is a chain, in order."""
    kind, config = document["class_name"], document["config"]
    if kind not in ("Sequential", "Functional", "Model"):
        raise unsupported("the network", f"a model of the class {kind}")
    # The earliest versions of Keras 2 have the list itself.
    layers = [_Layer(each) for each in (config if type(config) is list else config["layers"])]
    if kind == "Sequential":
        if not layers or layers[0].kind != "InputLayer":
            shape = document.get("build_config", {}).get("input_shape")
            first = layers[0].settings.get("batch_input_shape", shape) if layers else None
            settings = {"name": "input", "batch_shape": first}
            layers.insert(0, _Layer({"class_name": "InputLayer", "config": settings}))
        return layers
    previous = None
    for layer in layers:
        if _inputs_of(layer) != ([] if previous is None else [previous]):
            raise TrainingError(f"{layer.name}: only networks that are one chain are supported")
        previous = layer.name
    return layers


def _inputs_of(layer: _Layer) -> list[str]:
    """The names of the layers whose outputs a layer of a functional network takes."""
    found: list[str] = []
    for node in layer.inputs or []:
        if isinstance(node, dict):  # Keras 3
            tensors = [each["config"]["keras_history"] for each in node["args"]]
            settings = node["kwargs"]
        else:
            tensors, settings = node, node[0][3]
        found += [str(history[0]) for history in tensors]
        if layer.kind == "BatchNormalization" and settings.get("training"):
            raise unsupported(layer.name, "training=True")
    return found


def _draft(layers: list[_Layer]) -> Draft:
    first, *others = layers
    if first.kind != "InputLayer":
        raise TrainingError("the network does not say the shape of its input")
    shape = first.settings.get("batch_shape") or first.settings.get("batch_input_shape")
    if not shape or None in shape[1:]:
        raise TrainingError(f"the network's input has no definite shape: {shape}")
    is_spatial = any(layer.kind in _SPATIAL for layer in others)
    if is_spatial and len(shape) != 4:
        raise TrainingError(f"convolutions and pooling need images, not inputs of shape {shape}")
    draft = _KerasDraft(tuple(shape[1:]), "last" if is_spatial else "first")
    for layer in others:
        try:
            used = _READERS[layer.kind](draft, layer)
        except KeyError as error:
            raise TrainingError(f"{layer.name} has no setting {error}") from error
        if len(layer.arrays) != used:
            raise TrainingError(
                f"{layer.name} has {len(layer.arrays)} arrays of weights, not {used}"
            )
    if draft.order is not None:
        raise TrainingError("a flattened image must go through a Dense layer")
    return draft


class _KerasDraft(Draft):
    """A draft that knows in which order Keras has the units of a flattened image.

    Attributes:
        order: for each unit the number that Keras gives it; None if that is the same.
    """

    order: Any = None


# Each reader adds a layer, and returns how many arrays it has taken.


def _read_input(draft: _KerasDraft, layer: _Layer) -> int:
    raise TrainingError(f"{layer.name}: only networks of one input are supported")


def _read_rescaling(draft: _KerasDraft, layer: _Layer) -> int:
    scale, offset = layer.settings["scale"], layer.settings["offset"]
    if draft.layers or draft.scale is not None or type(scale) is not float or scale <= 0:
        raise unsupported(layer.name, "Rescaling that is not first, with one positive scale,")
    if type(offset) not in (int, float):
        raise unsupported(layer.name, "Rescaling with several offsets")
    draft.scale, draft.mean = scale, (-float(offset),)
    return 0


def _read_normalization(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(axis=(-1, [-1], [len(draft.input_shape)]), invert=(False,), mean=(None,))
    if draft.layers or draft.scale is not None or len(draft.input_shape) not in (1, 3):
        raise unsupported(layer.name, "Normalization that is not first")
    if len(draft.input_shape) == 3 and draft.channels != "last":
        raise unsupported(layer.name, "Normalization of images that are not convolved")
    mean, variance, *_ = (np.ravel(array).astype(np.float64) for array in layer.arrays)
    draft.scale, draft.mean = 1.0, tuple(mean.tolist())
    draft.std = tuple(np.maximum(np.sqrt(np.abs(variance)), 1e-7).tolist())
    return len(layer.arrays)


def _read_dense(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(quantization_config=(None,), lora_rank=(None,))
    kernel, bias = _kernel_and_bias(layer)
    weight = np.transpose(kernel)
    if draft.order is not None and weight.shape[-1] == len(draft.order):
        weight, draft.order = weight[:, draft.order], None
    draft.add(layer.name, LinearLayer(len(bias)), {"weight": weight, "bias": bias})
    return _activate(draft, layer)


def _read_conv2d(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(data_format=("channels_last",), padding=("valid", "same"), lora_rank=(None,))
    kernel, bias = _kernel_and_bias(layer)
    size, stride, dilation = (
        layer.pair(f"{key}") for key in ("kernel_size", "strides", "dilation_rate")
    )
    added = Conv2dLayer(
        outputs=len(bias),
        kernel=size,
        stride=stride,
        padding=_padding(draft, layer, size, stride, dilation),
        dilation=dilation,
        groups=int(layer.settings.get("groups", 1)),
    )
    # (rows, columns, inputs, outputs) to (outputs, inputs, rows, columns).
    weight = np.transpose(kernel, (3, 2, 0, 1))
    draft.add(layer.name, added, {"weight": weight, "bias": bias})
    return _activate(draft, layer)


def _kernel_and_bias(layer: _Layer) -> tuple[Any, Any]:
    if len(layer.arrays) != (2 if layer.settings["use_bias"] else 1):
        raise TrainingError(f"{layer.name} lacks its weights, or has too many")
    kernel = layer.arrays[0]
    rank, outputs = (4, "filters") if layer.kind == "Conv2D" else (2, "units")
    if kernel.ndim != rank or kernel.shape[-1] != layer.settings[outputs]:
        raise TrainingError(f"{layer.name} has a kernel of an unexpected shape, {kernel.shape}")
    return kernel, layer.arrays[1] if layer.settings["use_bias"] else np.zeros(kernel.shape[-1])


def _activate(draft: _KerasDraft, layer: _Layer) -> int:
    """Adds the layer's activation; returns the number of the layer's own arrays."""
    name = layer.settings.get("activation")
    if name == "softmax":
        draft.end_in(layer.name, "softmax")
    elif name not in ("linear", None):
        if not isinstance(name, str) or name not in _ACTIVATIONS:
            raise unsupported(layer.name, f"the activation {name}")
        draft.add(layer.name, _ACTIVATIONS[name]())
    return len(layer.arrays)


def _read_activation(draft: _KerasDraft, layer: _Layer) -> int:
    return _activate(draft, layer)


def _read_relu(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(max_value=(None,), negative_slope=(0, None), threshold=(0, None))
    draft.add(layer.name, ReluLayer())
    return 0


def _read_softmax(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(axis=(-1, 1))
    draft.end_in(layer.name, "softmax")
    return 0


def _read_pooling(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(data_format=("channels_last",), padding=("valid", "same"))
    size, stride = layer.pair("pool_size"), layer.pair("strides")
    padding = _padding(draft, layer, size, stride, (1, 1))
    if layer.kind == "MaxPooling2D":
        draft.add(layer.name, MaxPool2dLayer(size, stride, padding))
    elif any(padding):
        raise unsupported(layer.name, "average pooling with padding")
    else:
        draft.add(layer.name, AveragePool2dLayer(size, stride))
    return 0


def _read_global_average(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(data_format=("channels_last",), keepdims=(False,))
    size = draft.shape[-2], draft.shape[-1]
    draft.add(layer.name, AveragePool2dLayer(size, (1, 1)))
    draft.add(layer.name, FlattenLayer())
    return 0


def _padding(draft: _KerasDraft, layer: _Layer, size: Pair, stride: Pair, dilation: Pair) -> Sides:
    if layer.settings["padding"] == "valid":
        return 0, 0, 0, 0
    rows, columns = draft.shape[-2:]
    above, below = same_padding(rows, size[0], stride[0], dilation[0])
    left, right = same_padding(columns, size[1], stride[1], dilation[1])
    return above, below, left, right


def _read_flatten(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(data_format=("channels_last", None))
    if draft.channels == "last" and len(draft.shape) == 3:
        channels, rows, columns = draft.shape
        numbers = np.arange(channels * rows * columns).reshape(rows, columns, channels)
        order = numbers.transpose(2, 0, 1).ravel()
        draft.order = None if np.array_equal(order, np.sort(order)) else order
    draft.add(layer.name, FlattenLayer())
    return 0


def _read_dropout(draft: _KerasDraft, layer: _Layer) -> int:
    layer.need(noise_shape=(None,), data_format=("channels_last", None))
    is_spatial = layer.kind == "SpatialDropout2D"
    draft.add_dropout(layer.name, layer.settings["rate"], whole_channels=is_spatial)
    return 0


def _read_batch_norm(draft: _KerasDraft, layer: _Layer) -> int:
    rank = len(draft.shape)
    layer.need(axis=(-1, [-1], rank, [rank]), renorm=(False,))
    if rank == 3 and draft.channels != "last":
        raise unsupported(layer.name, "BatchNormalization of images that are not convolved")
    arrays = layer.arrays
    if draft.order is not None and rank == 1:
        arrays = [array[draft.order] for array in arrays if len(array) == len(draft.order)]
    learnt = [key for key in ("scale", "center") if layer.settings[key]]
    if len(arrays) != len(learnt) + 2:
        raise TrainingError(f"{layer.name} lacks its weights, or has too many")
    named = dict(zip((*learnt, "mean", "variance"), arrays, strict=True))
    draft.add_batch_norm(
        layer.name,
        named["mean"],
        named["variance"],
        layer.settings["epsilon"],
        named.get("scale"),
        named.get("center"),
    )
    return len(layer.arrays)


_READERS: dict[str, Callable[[_KerasDraft, _Layer], int]] = {
    "InputLayer": _read_input,
    "Rescaling": _read_rescaling,
    "Normalization": _read_normalization,
    "Dense": _read_dense,
    "Conv2D": _read_conv2d,
    "MaxPooling2D": _read_pooling,
    "AveragePooling2D": _read_pooling,
    "GlobalAveragePooling2D": _read_global_average,
    "Flatten": _read_flatten,
    "Dropout": _read_dropout,
    "SpatialDropout2D": _read_dropout,
    "BatchNormalization": _read_batch_norm,
    "Activation": _read_activation,
    "ReLU": _read_relu,
    "Softmax": _read_softmax,
}
