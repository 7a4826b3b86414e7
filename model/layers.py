"""The layers that an imported network may consist of: their settings, tensors and shapes.

They are data only: engines compute them. Shapes are those of one input, without the batch, and have
channels first: (C, H, W).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol, get_type_hints

from model.errors import ShapeError
from model.sampling.sites import round_rate

Shape = tuple[int, ...]
Pair = tuple[int, int]
# Rows and columns that padding adds: above, below, left and right.
Sides = tuple[int, int, int, int]

# Of every number in a layer's description, and of what a layer makes of one input.
MOST_UNITS = 2**22


class Layer(Protocol):
    """One step from the input to the logits; its fields are its settings.

    Attributes:
        kind: its name in a checkpoint's description.
    """

    kind: ClassVar[str]

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of what it makes of an input of this shape.

        Raises:
            ShapeError: it cannot take such an input.
        """
        ...

    def tensor_shapes(self, shape: Shape) -> dict[str, Shape]:
        """The names and shapes of its tensors for an input of this shape."""
        ...


@dataclass(frozen=True)
class _Plain:
    """A layer without tensors that keeps the shape."""

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def tensor_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {}


@dataclass(frozen=True)
class ReluLayer(_Plain):
    kind: ClassVar[str] = "relu"


@dataclass(frozen=True)
class TanhLayer(_Plain):
    kind: ClassVar[str] = "tanh"


@dataclass(frozen=True)
class IdentityLayer(_Plain):
    kind: ClassVar[str] = "identity"


@dataclass(frozen=True)
class DropoutLayer(_Plain):
    """Zeroes elements, or whole channels, and divides the others by 1 - rate.

    Attributes:
        rate: the probability of zeroing, in [0, 1), a multiple of 1/256.
        whole_channels: whether all elements of a channel share their fate.
    """

    kind: ClassVar[str] = "dropout"
    rate: float
    whole_channels: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rate < 1 or self.rate != round_rate(self.rate):
            raise ShapeError(
                f"a dropout rate must be a multiple of 1/256 in [0, 1), not {self.rate}"
            )

    def output_shape(self, shape: Shape) -> Shape:
        if self.whole_channels:
            _need(self, shape, 3)
        return shape


@dataclass(frozen=True)
class FlattenLayer(_Plain):
    kind: ClassVar[str] = "flatten"

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class LinearLayer:
    """W h + b."""

    kind: ClassVar[str] = "linear"
    outputs: int

    def output_shape(self, shape: Shape) -> Shape:
        _need(self, shape, 1)
        return (self.outputs,)

    def tensor_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.outputs, *shape), "bias": (self.outputs,)}


@dataclass(frozen=True)
class BatchNormLayer(_Plain):
    """Batch normalisation in inference form: scale and shift of each channel, or of each unit."""

    kind: ClassVar[str] = "batch_norm"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) not in (1, 3):
            raise ShapeError(f"batch_norm needs units or channels, and gets the shape {shape}")
        return shape

    def tensor_shapes(self, shape: Shape) -> dict[str, Shape]:
        return {"scale": shape[:1], "shift": shape[:1]}


@dataclass(frozen=True)
class Conv2dLayer:
    """A convolution, as torch has it: a cross-correlation with zeros around the input."""

    kind: ClassVar[str] = "conv2d"
    outputs: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_shape(self, shape: Shape) -> Shape:
        _need(self, shape, 3)
        if shape[0] % self.groups or self.outputs % self.groups:
            raise ShapeError(f"{self.groups} groups do not divide the channels of a convolution")
        return self.outputs, *_windows(self, shape, self.dilation)

    def tensor_shapes(self, shape: Shape) -> dict[str, Shape]:
        weight = (self.outputs, shape[0] // self.groups, *self.kernel)
        return {"weight": weight, "bias": (self.outputs,)}


@dataclass(frozen=True)
class AveragePool2dLayer(_Plain):
    """The mean of each window."""

    kind: ClassVar[str] = "average_pool2d"
    kernel: Pair
    stride: Pair
    padding: ClassVar[Sides] = (0, 0, 0, 0)

    def output_shape(self, shape: Shape) -> Shape:
        _need(self, shape, 3)
        return shape[0], *_windows(self, shape)


@dataclass(frozen=True)
class MaxPool2dLayer(_Plain):
    """The largest element of each window; what padding adds is never the largest."""

    kind: ClassVar[str] = "max_pool2d"
    kernel: Pair
    stride: Pair
    padding: Sides = (0, 0, 0, 0)

    def __post_init__(self) -> None:
        (rows, columns), (above, below, left, right) = self.kernel, self.padding
        if max(above, below) >= rows or max(left, right) >= columns:
            raise ShapeError(f"a padding of {self.padding} has windows with nothing in them")

    def output_shape(self, shape: Shape) -> Shape:
        _need(self, shape, 3)
        return shape[0], *_windows(self, shape)


KINDS: dict[str, type[Layer]] = {
    kind.kind: kind
    for kind in (
        *(ReluLayer, TanhLayer, IdentityLayer, DropoutLayer, FlattenLayer),
        *(LinearLayer, BatchNormLayer, Conv2dLayer, AveragePool2dLayer, MaxPool2dLayer),
    )
}


def operations(layer: Layer, inputs: Shape, outputs: Shape) -> int:
    """How many numbers a layer multiplies or compares for one input."""
    weights = layer.tensor_shapes(inputs).get("weight", (1,))
    each = math.prod(weights[1:])
    if isinstance(layer, AveragePool2dLayer | MaxPool2dLayer):
        each = math.prod(layer.kernel)
    return math.prod(outputs) * each


def describe_layer(layer: Layer) -> dict[str, Any]:
    """The layer as JSON has it."""
    return {"kind": layer.kind, **asdict(layer)}  # type: ignore[call-overload]


def layer_from(document: Mapping[str, Any]) -> Layer:
    """Reads `describe_layer`'s document.

    Raises:
        KeyError, TypeError, ValueError, ShapeError: the document is damaged.
    """
    if not isinstance(document, dict) or document.get("kind") not in KINDS:
        raise ValueError(f"a layer must be of one of the kinds {', '.join(sorted(KINDS))}")
    kind = KINDS[document["kind"]]
    hints = get_type_hints(kind)
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if names | {"kind"} != document.keys():
        raise ValueError(f"a layer of the kind {kind.kind} needs {', '.join(sorted(names))}")
    return kind(**{name: _setting(name, document[name], hints[name]) for name in sorted(names)})


def _setting(name: str, value: Any, hint: Any) -> Any:
    if hint in (Pair, Sides):
        count = len(hint.__args__)
        if not isinstance(value, list) or len(value) != count:
            raise TypeError(f"{name} must be {count} integers")
        return tuple(_setting(name, each, int) for each in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError(f"{name} must be of the type {hint.__name__}")
    least = 0 if name == "padding" else 1
    if hint is int and not least <= value <= MOST_UNITS:
        raise ValueError(f"{name} must be from {least} to {MOST_UNITS}")
    return value


def _need(layer: Layer, shape: Shape, rank: int) -> None:
    if len(shape) != rank:
        raise ShapeError(
            f"{layer.kind} needs an input of {rank} dimensions, and gets the shape {shape}"
        )


def _windows(
    layer: Conv2dLayer | AveragePool2dLayer | MaxPool2dLayer,
    shape: Shape,
    dilation: Pair = (1, 1),
) -> Pair:
    """How many windows there are below and next to each other."""
    above, below, left, right = layer.padding
    added = (above + below, left + right)
    rows, columns = (
        (size + added[axis] - dilation[axis] * (layer.kernel[axis] - 1) - 1) // layer.stride[axis]
        for axis, size in enumerate(shape[1:])
    )
    if rows < 0 or columns < 0:
        raise ShapeError(f"a window of {layer.kind} is larger than its input of shape {shape}")
    return rows + 1, columns + 1
