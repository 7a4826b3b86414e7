"""A network while its file is read: layers and tensors, each checked when it is added."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from model.arrays import Floats
from model.errors import ShapeError
from model.layers import MOST_UNITS, BatchNormLayer, DropoutLayer, Layer, Shape
from model.literals import Channels
from model.sampling.sites import round_rate
from training.errors import TrainingError
from training.importing.archives import MOST_BYTES

# What a library's network puts out: logits, or what it makes of them at its end.
Output = Literal["logits", "softmax", "log_softmax"]


class Draft:
    """Collects layers from the input on; see `model.layered.LayeredConfig`.

    Attributes:
        input_shape: of one input, as the library takes it.
        channels: where the input has its channels.
        shape: of what the last layer makes, channels first.
        layers: up to the logits.
        tensors: of all layers, by their names in a checkpoint.
        output: what the library's network puts out.
        scale: with `mean` and `std`, what the file itself does with inputs; None for nothing.
        mean: see `model.layered.InputSpec`.
        std: as `mean`.
        notes: what the user should know.
    """

    def __init__(self, input_shape: Shape, channels: Channels = "first") -> None:
        if not all(type(size) is int and 1 <= size <= MOST_UNITS for size in input_shape):
            raise TrainingError(f"the input has an impossible shape, {list(input_shape)}")
        self.input_shape, self.channels = input_shape, channels
        self.shape = input_shape
        if channels == "last":
            self.shape = (input_shape[2], *input_shape[:2])
        self.layers: list[Layer] = []
        self.tensors: dict[str, Floats] = {}
        self.output: Output = "logits"
        self.scale: float | None = None
        self.mean: tuple[float, ...] = (0.0,)
        self.std: tuple[float, ...] = (1.0,)
        self.notes: list[str] = []
        self._bytes_left = MOST_BYTES

    def add(self, name: str, layer: Layer, tensors: Mapping[str, Any] | None = None) -> None:
        """Adds a layer.

        Args:
            name: of the layer in the file, for messages.
            layer: as checkpoints have it.
            tensors: of the shapes that it needs.

        Raises:
            TrainingError: it does not fit what is before it, or its tensors do not fit it.
        """
        if self.output != "logits":
            raise TrainingError(f"{name} comes after {self.output}, which must be the last layer")
        try:
            shape, expected = layer.output_shape(self.shape), layer.tensor_shapes(self.shape)
        except ShapeError as error:
            raise TrainingError(f"{name}: {error}") from error
        if math.prod(shape) > MOST_UNITS:
            raise TrainingError(f"{name} has more than {MOST_UNITS:,} outputs")
        for key, array in (tensors or {}).items():
            values = np.asarray(array)
            if values.shape != expected.pop(key, None):
                raise TrainingError(f"{name} has {key} of an unexpected shape, {values.shape}")
            # A file can use one array for every layer.
            self._bytes_left -= 4 * values.size
            if self._bytes_left < 0:
                raise TrainingError(f"{name}: more than {MOST_BYTES:,} bytes of weights")
            converted = np.ascontiguousarray(values, np.float32)
            if not np.isfinite(converted).all():
                raise TrainingError(f"{name} has a value in {key} that is not finite")
            self.tensors[f"layers.{len(self.layers)}.{key}"] = converted
        if expected:
            raise TrainingError(f"{name} lacks {', '.join(expected)}")
        self.layers.append(layer)
        self.shape = shape

    def add_dropout(self, name: str, rate: Any, *, whole_channels: bool = False) -> None:
        """Adds dropout, unless its rate is 0; says it if the rate must be rounded."""
        if type(rate) not in (int, float) or not 0 <= rate < 1:
            raise TrainingError(f"{name} has a dropout rate that is not in [0, 1): {rate!r}")
        rounded = round_rate(rate)
        if rounded == 1:
            raise TrainingError(f"{name} has a dropout rate of {rate}, which leaves nothing")
        if rounded != rate:
            self.notes.append(f"{name}: dropout rate {rate:g} is served as {rounded:.4f}")
        if rounded > 0:
            self.add(name, DropoutLayer(rounded, whole_channels))

    def add_batch_norm(
        self,
        name: str,
        mean: Any,
        variance: Any,
        epsilon: Any,
        weight: Any = None,
        bias: Any = None,
    ) -> None:
        """Adds batch normalisation in inference form: its running statistics, and what it learnt.

        Args:
            name: of the layer.
            mean: (C,).
            variance: (C,).
            epsilon: is added to the variance.
            weight: (C,), or None for ones.
            bias: (C,), or None for zeros.
        """
        with np.errstate(all="ignore"):  # what is not finite is refused
            arrays = [np.asarray(each, np.float64) for each in (mean, variance)]
            scale = 1 / np.sqrt(arrays[1] + float(epsilon))
            scale = scale if weight is None else scale * np.asarray(weight, np.float64)
            shift = -arrays[0] * scale
            shift = shift if bias is None else shift + np.asarray(bias, np.float64)
        self.add(name, BatchNormLayer(), {"scale": scale, "shift": shift})

    def end_in(self, name: str, output: Output) -> None:
        """Notes what the network makes of its logits."""
        if self.output != "logits":
            raise TrainingError(f"{name} comes after {self.output}, which must be the last layer")
        self.output = output


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """What "same" padding adds before and after: ceil(size / stride) windows."""
    windows = -(-size // stride)
    added = max((windows - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return added // 2, added - added // 2


def unsupported(name: str, kind: str) -> TrainingError:
    """The refusal of a layer or an operation, by its name."""
    return TrainingError(f"{name}: {kind} is not supported")
