"""A network of any layers that `model.layers` has, and what its inputs must be."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

import numpy as np

from model.arrays import Array, Floats
from model.errors import ShapeError
from model.layers import (
    MOST_UNITS,
    DropoutLayer,
    FlattenLayer,
    IdentityLayer,
    Layer,
    LinearLayer,
    ReluLayer,
    Shape,
    describe_layer,
    layer_from,
    operations,
)
from model.literals import SIDE, Channels, InputType, Preparation
from model.network import MLP, Linear, MLPConfig

MOST_LAYERS = 1_000
MOST_LABELS = 100_000
MOST_DIMENSIONS = 8
# Of one pass: as many as a ResNet of 50 layers takes for a picture of 224x224.
MOST_OPERATIONS = 2**32

_DIGIT_SHAPES = ((SIDE * SIDE,), (SIDE, SIDE), (1, SIDE, SIDE), (SIDE, SIDE, 1))


@dataclass(frozen=True)
class InputSpec:
    """What a request sends for one input, and how it becomes the first layer's input.

    The network computes (value x scale - mean) / std.

    Attributes:
        shape: of one input, without the batch.
        dtype: uint8 for pixels, or float32.
        scale: see above; 1/255 takes pixels to [0, 1].
        mean: one number, or one per channel; of a flat input each unit is a channel.
        std: as `mean`, above 0.
        channels: whether the first axis is the channels, or the last; the layers have them first.
        preparation: "digit" finds a digit in any picture and makes MNIST's pixels of it, 28x28;
            "none" takes inputs as they are.

    Raises:
        ShapeError: the values contradict each other.
    """

    shape: Shape
    dtype: InputType = "float32"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: Channels = "first"
    preparation: Preparation = "none"

    def __post_init__(self) -> None:
        is_possible = all(1 <= size <= MOST_UNITS for size in self.shape)
        if not 1 <= len(self.shape) <= MOST_DIMENSIONS or not is_possible:
            raise ShapeError(f"an input cannot have the shape {self.shape}")
        if math.prod(self.shape) > MOST_UNITS:
            raise ShapeError(f"an input of shape {self.shape} has more than {MOST_UNITS:,} numbers")
        for name, kinds in (
            *(("dtype", InputType), ("channels", Channels), ("preparation", Preparation)),
        ):
            if getattr(self, name) not in get_args(kinds):
                raise ShapeError(f"{name} must be one of {', '.join(get_args(kinds))}")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))):
            raise ShapeError("scale, mean and std must be finite")
        if not self.scale > 0 or not all(std > 0 for std in self.std):
            raise ShapeError("scale and std must be above 0")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self._channel_count):
                raise ShapeError(
                    f"{name} must be one number, or one per channel, and there are "
                    f"{self._channel_count} channels, not {len(values)}"
                )
        if self.channels == "last" and len(self.shape) != 3:
            raise ShapeError("only an input of three dimensions has its channels last")
        if self.preparation == "digit" and (
            self.dtype != "uint8" or self.shape not in _DIGIT_SHAPES
        ):
            raise ShapeError("the preparation digit needs 28x28 inputs of the type uint8")

    @property
    def _channel_count(self) -> int:
        return self.shape[-1 if self.channels == "last" else 0]

    @property
    def layer_shape(self) -> Shape:
        """The shape of the first layer's input, channels first."""
        if self.channels == "last":
            return (self.shape[2], *self.shape[:2])
        return self.shape

    def factors(self) -> tuple[Array, Array]:
        """The factor and the summand of each channel, or the one of all: factor x value + summand.

        Returns:
            float64, both broadcastable to `layer_shape`.
        """
        mean, std = np.array(self.mean), np.array(self.std)
        shape = (-1, *[1] * (len(self.shape) - 1))
        return (self.scale / std).reshape(shape), (-mean / std).reshape(shape)


@dataclass(frozen=True)
class LayeredConfig:
    """Describes a network, but for its weights.

    Attributes:
        input: what a request sends.
        labels: the name of each class.
        layers: from the input to the logits.

    Raises:
        ShapeError: the layers do not fit the input, the labels or each other.
    """

    input: InputSpec
    labels: tuple[str, ...]
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        if len(self.layers) > MOST_LAYERS or len(self.labels) > MOST_LABELS:
            raise ShapeError(f"at most {MOST_LAYERS} layers and {MOST_LABELS} labels are possible")
        shape = self.shapes[-1]
        if shape != (len(self.labels),) or len(self.labels) < 2:
            raise ShapeError(
                f"the network's output has shape {shape}, which does not fit {len(self.labels)} "
                "labels"
            )

    @property
    def shapes(self) -> list[Shape]:
        """The shape of the first layer's input, and of each layer's output."""
        shapes, left = [self.input.layer_shape], MOST_OPERATIONS
        for index, layer in enumerate(self.layers):
            shape = layer.output_shape(shapes[-1])
            if math.prod(shape) > MOST_UNITS:
                raise ShapeError(f"layer {index} has more than {MOST_UNITS:,} outputs: {shape}")
            left -= operations(layer, shapes[-1], shape)
            if left < 0:
                raise ShapeError(f"an input takes more than {MOST_OPERATIONS:,} multiplications")
            shapes.append(shape)
        return shapes

    @property
    def tensor_shapes(self) -> dict[str, Shape]:
        """The name and the shape of each tensor."""
        return {
            f"layers.{index}.{name}": shape
            for index, (layer, inputs) in enumerate(zip(self.layers, self.shapes[:-1], strict=True))
            for name, shape in layer.tensor_shapes(inputs).items()
        }

    def describe(self) -> dict[str, Any]:
        """The configuration as JSON has it."""
        layers = [describe_layer(layer) for layer in self.layers]
        return {"input": asdict(self.input), "labels": list(self.labels), "layers": layers}


def layered_config_from(document: Mapping[str, Any]) -> LayeredConfig:
    """Reads the document of `LayeredConfig.describe`.

    Raises:
        KeyError, TypeError, ValueError, ShapeError: the document is damaged.
    """
    layers, labels, given = document["layers"], document["labels"], dict(document["input"])
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise ValueError(f"layers must be a list of at most {MOST_LAYERS}")
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise TypeError("labels must be a list of strings")
    if not all(type(size) is int for size in given["shape"]):
        raise TypeError("shape must be integers")
    for name in ("scale", "mean", "std"):
        numbers = [given[name]] if name == "scale" else given[name]
        if not all(type(number) in (int, float) for number in numbers):
            raise TypeError(f"{name} must be numbers")
    given |= {name: tuple(given[name]) for name in ("shape", "mean", "std")}
    read = tuple(layer_from(layer) for layer in layers)
    return LayeredConfig(InputSpec(**given), tuple(labels), read)


@dataclass(frozen=True, eq=False)
class LayeredNetwork:
    """A network of any layers: data only, which engines compute.

    Raises:
        ShapeError: the tensors do not fit the configuration, or are not float32.
    """

    config: LayeredConfig
    tensors: Mapping[str, Floats] = field(repr=False)

    def __post_init__(self) -> None:
        found = {name: tensor.shape for name, tensor in self.tensors.items()}
        if found != self.config.tensor_shapes:
            raise ShapeError("the tensors do not fit the layers")
        if any(tensor.dtype != np.float32 for tensor in self.tensors.values()):
            raise ShapeError("all tensors must be float32")

    def parameter_count(self) -> int:
        """Counts the numbers in all tensors."""
        return sum(tensor.size for tensor in self.tensors.values())


def spec_of(network: MLP | LayeredNetwork) -> InputSpec:
    """What requests send for one input of a network; an MLP's own inputs are pictures of digits.

    Raises:
        ShapeError: it is an MLP for pictures of another size.
    """
    config = network.config
    if isinstance(config, LayeredConfig):
        return config.input
    mean, std = (config.mean,), (config.std,)
    return InputSpec(config.input_shape, "uint8", 1 / 255, mean, std, preparation="digit")


def pass_operations(network: MLP | LayeredNetwork) -> tuple[int, int]:
    """How many numbers are multiplied or compared for one input, and for each of its passes.

    Returns:
        Those before the first dropout, which all passes share, and those after it.
    """
    config = network.config
    if isinstance(config, MLPConfig):
        each = [math.prod(shape) for shape in config.layer_shapes]
        shared = 0 if config.input_dropout_rate else 1
    else:
        shapes = config.shapes
        each = list(map(operations, config.layers, shapes, shapes[1:]))
        kinds = [isinstance(layer, DropoutLayer) for layer in config.layers]
        shared = kinds.index(True) if True in kinds else len(kinds)
    return sum(each[:shared]), sum(each[shared:])


def as_mlp(network: LayeredNetwork) -> MLP | None:
    """The same network as an MLP, which the compiled engine computes; None if it is none.

    It is one if it has linear layers only, with ReLU after all hidden ones or after none, and
    dropout of elements. A hidden layer without dropout gets a rate of 0, which a request's other
    rate replaces like any hidden layer's.
    """
    spec, layers = network.config.input, network.config.layers
    if spec.channels == "last" and spec.shape[2] > 1:
        return None  # `FlattenLayer` orders the inputs otherwise than requests do
    linear: list[Linear] = []
    parts: list[list[Layer]] = [[]]  # what is before and after each linear layer
    for index, layer in enumerate(layers):
        if isinstance(layer, LinearLayer):
            names = (f"layers.{index}.weight", f"layers.{index}.bias")
            linear.append(Linear(*(network.tensors[name] for name in names)))
            parts.append([])
        elif not isinstance(layer, FlattenLayer | IdentityLayer):
            parts[-1].append(layer)
    before, *between, after = parts
    rates = [_rate(part) for part in (before, *between)]
    is_relu = {any(isinstance(layer, ReluLayer) for layer in part) for part in between}
    if after or None in rates or any(isinstance(layer, ReluLayer) for layer in before):
        return None
    input_rate, *hidden_rates = (rate or 0.0 for rate in rates)
    if len(is_relu) != 1:
        return None
    mean, std = spec.mean[0], spec.std[0]
    if spec.scale != 1 / 255 or len({*spec.mean}) > 1 or len({*spec.std}) > 1:
        if input_rate:
            return None  # which acts after the normalisation
        # The network then takes its inputs as they are: (value / 255 - 0) / (1 / 255).
        linear[0], mean, std = _fold(spec, linear[0]), 0.0, 1 / 255
    config = MLPConfig(
        layer_sizes=(math.prod(spec.shape), *(len(layer.bias) for layer in linear)),
        dropout_rates=tuple(hidden_rates),
        input_shape=(SIDE, SIDE) if spec.preparation == "digit" else (1, math.prod(spec.shape)),
        labels=network.config.labels,
        mean=mean,
        std=std,
        activation="relu" if is_relu.pop() else "linear",
        input_dropout_rate=input_rate,
    )
    return MLP(config, tuple(linear))


def _rate(part: list[Layer]) -> float | None:
    """The dropout rate among the layers from one linear layer to the next; None if it is no MLP.

    Dropout may be before ReLU or after it: the result is the same.
    """
    dropouts = [layer for layer in part if isinstance(layer, DropoutLayer)]
    others = [layer for layer in part if layer not in dropouts]
    if len(dropouts) > 1 or any(dropout.whole_channels for dropout in dropouts):
        return None
    if not all(isinstance(layer, ReluLayer) for layer in others):
        return None
    return dropouts[0].rate if dropouts else 0.0


def _fold(spec: InputSpec, first: Linear) -> Linear:
    """The first layer, of inputs as requests send them."""
    factor, summand = (np.broadcast_to(each, spec.shape).reshape(-1) for each in spec.factors())
    weight = first.weight.astype(np.float64)
    bias = first.bias + weight @ summand
    return Linear((weight * factor).astype(np.float32), bias.astype(np.float32))
