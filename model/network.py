"""The dropout-regularised multi-layer perceptron, and the normalisation of its input."""

import itertools
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import numpy as np

from model.arrays import Floats, Pixels
from model.errors import ShapeError
from model.literals import Activation
from model.sampling.sites import DropoutSite, round_rate


@dataclass(frozen=True)
class MLPConfig:
    """Describes a network: with its weights, all that is needed to rebuild and to use it.

    Attributes:
        layer_sizes: units per layer, including input and output.
        dropout_rates: for each hidden layer the probability of zeroing a unit, in [0, 1), a
            multiple of 1/256.
        input_shape: rows and columns of an image; their product is `layer_sizes[0]`.
        labels: the name of each class.
        mean: mean of the training pixels scaled to [0, 1]; see `normalise`.
        std: their standard deviation.
        activation: activation function of the hidden units. "linear" applies none, for
            comparison.
        input_dropout_rate: as `dropout_rates`, of the normalised inputs; 0 for none.

    Raises:
        ShapeError: the values contradict each other.
    """

    layer_sizes: tuple[int, ...] = (784, 512, 256, 128, 10)
    dropout_rates: tuple[float, ...] = (51 / 256, 51 / 256, 51 / 256)
    input_shape: tuple[int, int] = (28, 28)
    labels: tuple[str, ...] = tuple("0123456789")
    mean: float = 0.1307
    std: float = 0.3081
    activation: Activation = "relu"
    input_dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        if len(self.layer_sizes) < 3 or min(self.layer_sizes) < 1:
            raise ShapeError(
                "layer_sizes must name an input, hidden layers and an output, "
                f"not {self.layer_sizes}"
            )
        if len(self.dropout_rates) != len(self.hidden_sizes):
            raise ShapeError(
                f"{len(self.hidden_sizes)} hidden layers need as many dropout_rates, "
                f"not {len(self.dropout_rates)}"
            )
        for rate in (self.input_dropout_rate, *self.dropout_rates):
            if not 0 <= rate < 1 or rate != round_rate(rate):
                raise ShapeError(
                    f"a dropout rate must be a multiple of 1/256 in [0, 1), not {rate}"
                )
        if self.input_shape[0] * self.input_shape[1] != self.layer_sizes[0]:
            raise ShapeError(
                f"{self.layer_sizes[0]} inputs cannot hold an image of shape {self.input_shape}"
            )
        if len(self.labels) != self.layer_sizes[-1]:
            raise ShapeError(
                f"{self.layer_sizes[-1]} classes need as many labels, not {len(self.labels)}"
            )
        if not self.std > 0:
            raise ShapeError(f"std must be above 0, not {self.std}")
        if self.activation not in get_args(Activation):
            raise ShapeError(
                f"activation must be one of {', '.join(get_args(Activation))}, "
                f"not {self.activation}"
            )

    @property
    def hidden_sizes(self) -> tuple[int, ...]:
        """Units per hidden layer."""
        return self.layer_sizes[1:-1]

    @property
    def dropout_sites(self) -> tuple[DropoutSite, ...]:
        """Where masks act: after the activation of each hidden layer, and perhaps on the inputs."""
        hidden = tuple(map(DropoutSite, self.hidden_sizes, self.dropout_rates))
        if self.input_dropout_rate == 0:
            return hidden
        inputs = DropoutSite(self.layer_sizes[0], self.input_dropout_rate, is_input=True)
        return (inputs, *hidden)

    @property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """The shape of each layer's weights, (outputs, inputs)."""
        return tuple((outputs, inputs) for inputs, outputs in itertools.pairwise(self.layer_sizes))


class Linear(NamedTuple):
    """A linear layer, which computes W h + b.

    Attributes:
        weight: W, float32, (outputs, inputs).
        bias: b, float32, (outputs,).
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True, eq=False)
class MLP:
    """A network: linear layers, with the activation function and dropout after each hidden one.

    It is data only. Engines compute its answers, and `training.network` trains it.

    Raises:
        ShapeError: the layers do not fit the configuration, or are not float32.
    """

    config: MLPConfig
    layers: tuple[Linear, ...] = field(repr=False)

    def __post_init__(self) -> None:
        found = [(layer.weight.shape, layer.bias.shape) for layer in self.layers]
        wanted = [(shape, shape[:1]) for shape in self.config.layer_shapes]
        if found != wanted:
            raise ShapeError(f"layers of shapes {found} do not fit those wanted, {wanted}")
        if any(array.dtype != np.float32 for layer in self.layers for array in layer):
            raise ShapeError("weights and biases must be float32")

    def parameter_count(self) -> int:
        """Counts the weights and biases."""
        return sum(array.size for layer in self.layers for array in layer)


def normalise(pixels: Pixels, config: MLPConfig) -> Floats:
    """Computes the network's input, (pixels / 255 - mean) / std.

    Args:
        pixels: ink 0 to 255, (B, 28, 28) or (28, 28).
        config: the network's configuration, which has the mean and the standard deviation.

    Returns:
        float32, (B, 784); B is 1 for a single image.
    """
    flat = pixels.reshape(-1, config.layer_sizes[0]).astype(np.float32)
    x: Floats = (flat / np.float32(255) - np.float32(config.mean)) / np.float32(config.std)
    return x


def fold_normalisation(network: MLP) -> tuple[Linear, ...]:
    """The layers, of which the first takes pixels 0 to 255 as they are.

    W ((p / 255 - mean) / std) + b  =  (W / (255 std)) p + (b - mean / std W 1)
    """
    config = network.config
    first, *later = network.layers
    weight, bias = first.weight.astype(np.float64), first.bias.astype(np.float64)
    bias = bias - weight.sum(axis=1) * (config.mean / config.std)
    folded = weight / (255 * config.std)
    return Linear(folded.astype(np.float32), bias.astype(np.float32)), *later
