"""Programs that `torch.export.save` wrote: the graph is JSON, and the weights are raw numbers.

The archive's sample inputs are a pickle, which is not read. Dropout stays in the graph, whether the
module was exported in training or in evaluation mode.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from model.layers import (
    AveragePool2dLayer,
    Conv2dLayer,
    FlattenLayer,
    LinearLayer,
    MaxPool2dLayer,
    Pair,
    ReluLayer,
    TanhLayer,
)
from training.errors import TrainingError
from training.importing.archives import Archive
from training.importing.drafts import Draft, same_padding, unsupported

_FLOAT = 7  # the number of float32 in torch's own schema
_ATEN = "torch.ops.aten."
# They compute nothing that the network's answer needs.
_IGNORED = {"sym_size.int", "add_.Tensor"}


def read_exported(content: bytes) -> Draft:
    """The network in a `.pt2` file.

    Raises:
        TrainingError: it is damaged, or has something unknown.
    """
    archive = Archive(content)
    (*_, model) = _found(archive, "models/model.json")
    root = model.removesuffix("models/model.json")
    program = archive.read_json(model)["graph_module"]
    graph, signature = program["graph"], program["signature"]
    weights = _Weights(archive, root)
    names: dict[str, str] = {}  # of a tensor in the graph: that of the weight
    inputs = []
    for each in signature["input_specs"]:
        if "user_input" in each:
            inputs.append(each["user_input"]["arg"]["as_tensor"]["name"])
        for kind in ("parameter", "buffer"):
            if kind in each:
                names[each[kind]["arg"]["name"]] = each[kind][f"{kind}_name"]
    if len(inputs) != 1:
        raise TrainingError(f"the program has {len(inputs)} inputs; only one is supported")
    sizes = graph["tensor_values"][inputs[0]]["sizes"]
    if len(sizes) < 2 or any("as_int" not in size for size in sizes[1:]):
        raise TrainingError("the program's input must be a batch of inputs of a definite shape")
    draft = Draft(tuple(size["as_int"] for size in sizes[1:]))
    current = inputs[0]
    for document in graph["nodes"]:
        node = _Node(document, names, weights)
        if node.first != current:
            if node.kind in _IGNORED:
                continue
            raise TrainingError(f"{node.name}: only networks that are one chain are supported")
        if node.kind == "sym_size.int":
            continue
        if node.kind not in _READERS:
            raise unsupported(node.name, f"the operation {node.target}")
        _READERS[node.kind](draft, node)
        (output,) = document["outputs"]
        current = output["as_tensor"]["name"]
    (output,) = graph["outputs"]
    if output["as_tensor"]["name"] != current:
        raise TrainingError("the program's output is not that of its last operation")
    return draft


def _found(archive: Archive, end: str) -> list[str]:
    found = [name for name in archive.names if re.fullmatch(rf"[^/]+/{re.escape(end)}", name)]
    if len(found) == 1:
        return found
    if "serialized_exported_program.json" in archive.names:
        raise TrainingError(
            "the program was saved by an older torch, which stores weights as a pickle; "
            "save it again with torch 2.9 or newer"
        )
    raise TrainingError(f"the archive is no exported program: it has no {end}")


class _Weights:
    """The tensors of an archive, by their names in the module."""

    def __init__(self, archive: Archive, root: str) -> None:
        self._archive, self._folder = archive, f"{root}data/weights/"
        self._config = archive.read_json(f"{self._folder}model_weights_config.json")["config"]

    def __getitem__(self, name: str) -> Any:
        entry = self._config[name]
        meta, path = entry["tensor_meta"], str(entry["path_name"])
        if entry["use_pickle"] is not False:
            raise TrainingError(f"the weights {name} are a pickle, which can run code")
        if not re.fullmatch(r"weight_\d+", path):
            raise TrainingError(f"the weights {name} have an impossible path, {path!r}")
        if meta["dtype"] != _FLOAT:
            raise TrainingError(f"the weights {name} are not float32")
        shape = [size["as_int"] for size in meta["sizes"]]
        strides = [stride["as_int"] for stride in meta["strides"]]
        content = self._archive.read(self._folder + path)
        numbers = np.frombuffer(content[: len(content) // 4 * 4], "<f4")
        dense = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        if strides == dense and meta["storage_offset"]["as_int"] == 0:
            if math.prod(shape) != len(numbers) or min(shape, default=1) < 1:
                raise TrainingError(f"the weights {name} have another size than their shape")
            return numbers.reshape(shape)
        raise TrainingError(f"the weights {name} are a view of others; call contiguous() first")


class _Node:
    """One operation of the graph, with its arguments.

    Attributes:
        target: the operation's full name.
        kind: without torch's prefix and the marks of operations in place.
        first: the name of the tensor that it takes.
    """

    def __init__(
        self, document: Mapping[str, Any], names: Mapping[str, str], weights: _Weights
    ) -> None:
        self.target, self.name = str(document["target"]), str(document.get("name"))
        kind = self.target.removeprefix(_ATEN)
        self.kind = kind if kind in _IGNORED else kind.replace("_.default", ".default")
        self._names, self._weights = names, weights
        self._arguments = {each["name"]: each["arg"] for each in document["inputs"]}
        tensors = [
            argument["as_tensor"]["name"]
            for name, argument in self._arguments.items()
            if name in ("self", "input") and "as_tensor" in argument
        ]
        self.first = tensors[0] if tensors else None

    def value(self, name: str, default: Any = None) -> Any:
        """An argument: a number, a list, or text; names of sizes that vary are -1."""
        ((kind, value),) = self._arguments.get(name, {"as_none": default}).items()
        if kind == "as_none":
            return default
        if kind == "as_sym_ints":
            return [each.get("as_int", -1) for each in value]
        if kind not in ("as_int", "as_ints", "as_float", "as_bool", "as_string"):
            raise unsupported(self.name, f"an argument {name} of the kind {kind}")
        return value

    def pair(self, name: str, default: Pair) -> Pair:
        """An argument of one or two integers."""
        value = self.value(name, list(default)) or list(default)
        both = value * 2 if len(value) == 1 else value
        if len(both) != 2 or not all(type(each) is int and 0 <= each < 2**16 for each in both):
            raise TrainingError(f"{self.name} has an impossible {name}: {value}")
        return both[0], both[1]

    def weight(self, name: str) -> Any:
        """A tensor of the module; None if there is none."""
        argument = self._arguments.get(name, {"as_none": True})
        if "as_none" in argument:
            return None
        return self._weights[self._names[argument["as_tensor"]["name"]]]

    def need(self, **expected: tuple[Any, ...]) -> None:
        """Refuses arguments other than those allowed: of each its default, and what is allowed."""
        for name, (default, *allowed) in expected.items():
            if self.value(name, default) not in allowed:
                raise unsupported(self.name, f"{name}={self.value(name, default)}")


def _read_linear(draft: Draft, node: _Node) -> None:
    weight = node.weight("weight")
    bias = node.weight("bias")
    bias = np.zeros(len(weight)) if bias is None else bias
    draft.add(node.name, LinearLayer(len(bias)), {"weight": weight, "bias": bias})


def _read_conv2d(draft: Draft, node: _Node) -> None:
    weight, bias = node.weight("weight"), node.weight("bias")
    if weight.ndim != 4 or len(draft.shape) != 3:
        raise TrainingError(f"{node.name} is no convolution of images")
    bias = np.zeros(len(weight)) if bias is None else bias
    size = weight.shape[2], weight.shape[3]
    stride, dilation = node.pair("stride", (1, 1)), node.pair("dilation", (1, 1))
    padding = node.value("padding", [0, 0])
    if padding in ("same", "valid"):
        both = [(0, 0), (0, 0)]
        if padding == "same":
            both = [same_padding(draft.shape[i + 1], size[i], 1, dilation[i]) for i in range(2)]
        (above, below), (left, right) = both
    else:
        (above, left) = (below, right) = node.pair("padding", (0, 0))
    if 0 in (*stride, *dilation):
        raise TrainingError(f"{node.name} has a stride of 0")
    added = Conv2dLayer(
        len(bias),
        size,
        stride,
        (above, below, left, right),
        dilation,
        int(node.value("groups", 1)),
    )
    draft.add(node.name, added, {"weight": weight, "bias": bias})


def _read_batch_norm(draft: Draft, node: _Node) -> None:
    mean, variance = node.weight("running_mean"), node.weight("running_var")
    if mean is None:
        raise unsupported(node.name, "batch normalisation without running statistics")
    learnt = node.weight("weight"), node.weight("bias")
    draft.add_batch_norm(node.name, mean, variance, node.value("eps", 1e-5), *learnt)


def _read_max_pool(draft: Draft, node: _Node) -> None:
    node.need(ceil_mode=(False, False))
    size = _positive(node, "kernel_size", (0, 0))
    if node.pair("dilation", (1, 1)) != (1, 1):
        raise unsupported(node.name, "pooling with dilation")
    rows, columns = node.pair("padding", (0, 0))
    stride = _positive(node, "stride", size)
    draft.add(node.name, MaxPool2dLayer(size, stride, (rows, rows, columns, columns)))


def _read_average_pool(draft: Draft, node: _Node) -> None:
    node.need(ceil_mode=(False, False), divisor_override=(None, None))
    if node.pair("padding", (0, 0)) != (0, 0):
        raise unsupported(node.name, "average pooling with padding")
    size = _positive(node, "kernel_size", (0, 0))
    draft.add(node.name, AveragePool2dLayer(size, _positive(node, "stride", size)))


def _read_global_average(draft: Draft, node: _Node) -> None:
    if node.pair("output_size", (0, 0)) != (1, 1) or len(draft.shape) != 3:
        raise unsupported(node.name, "adaptive pooling to another size than 1")
    draft.add(node.name, AveragePool2dLayer((draft.shape[1], draft.shape[2]), (1, 1)))


def _positive(node: _Node, name: str, default: Pair) -> Pair:
    pair = node.pair(name, default)
    if 0 in pair:
        raise TrainingError(f"{node.name} has an impossible {name}: {list(pair)}")
    return pair


def _read_dropout(draft: Draft, node: _Node) -> None:
    draft.add_dropout(node.name, node.value("p"), whole_channels=node.kind.startswith("feature"))


def _read_flatten(draft: Draft, node: _Node) -> None:
    node.need(start_dim=(0, 1), end_dim=(-1, -1, len(draft.shape)))
    draft.add(node.name, FlattenLayer())


def _read_view(draft: Draft, node: _Node) -> None:
    size = node.value("size") or node.value("shape") or []
    if len(size) != 2 or size[1] not in (-1, math.prod(draft.shape)):
        raise unsupported(node.name, f"a change of the shape to {size}")
    draft.add(node.name, FlattenLayer())


def _read_softmax(draft: Draft, node: _Node) -> None:
    node.need(dim=(None, 1, -1), dtype=(None, None))
    draft.end_in(node.name, "softmax" if node.kind.startswith("softmax") else "log_softmax")


_READERS: dict[str, Callable[[Draft, _Node], None]] = {
    "linear.default": _read_linear,
    "conv2d.default": _read_conv2d,
    "conv2d.padding": _read_conv2d,
    "batch_norm.default": _read_batch_norm,
    "relu.default": lambda draft, node: draft.add(node.name, ReluLayer()),
    "tanh.default": lambda draft, node: draft.add(node.name, TanhLayer()),
    "max_pool2d.default": _read_max_pool,
    "avg_pool2d.default": _read_average_pool,
    "adaptive_avg_pool2d.default": _read_global_average,
    "dropout.default": _read_dropout,
    "feature_dropout.default": _read_dropout,
    "flatten.using_ints": _read_flatten,
    "view.default": _read_view,
    "reshape.default": _read_view,
    "softmax.int": _read_softmax,
    "log_softmax.int": _read_softmax,
}
