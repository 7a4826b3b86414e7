"""The dropout-regularised multi-layer perceptron, and the normalisation of its input."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn

from model.arrays import Pixels
from model.errors import ShapeError
from model.literals import Activation

# One mask per hidden layer, bool, (..., units); True keeps the unit. See `masks.draw_masks`.
Masks = Sequence[Tensor]

# A dropout rate is a multiple of 1/256, so that one random byte decides one unit exactly.
RATE_STEPS = 256


def round_rate(rate: float) -> float:
    """Rounds a dropout rate to the nearest multiple of 1/256."""
    return round(rate * RATE_STEPS) / RATE_STEPS


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
        for rate in self.dropout_rates:
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

    def activate(self, z: Tensor) -> Tensor:
        """Applies the activation function to the weighted sums `z`."""
        return torch.relu(z) if self.activation == "relu" else z


def normalise(pixels: Pixels, config: MLPConfig) -> Tensor:
    """Computes the network's input, (pixels / 255 - mean) / std.

    Args:
        pixels: ink 0 to 255, (B, 28, 28) or (28, 28).
        config: the network's configuration, which has the mean and the standard deviation.

    Returns:
        float32, (B, 784); B is 1 for a single image.
    """
    flat = torch.from_numpy(np.ascontiguousarray(pixels)).reshape(-1, config.layer_sizes[0])
    return (flat.to(torch.float32) / 255 - config.mean) / config.std


class MLP(nn.Module):
    """Linear layers with ReLU between them, and dropout after each hidden activation.

    Dropout is an argument of the call, not a mode: without masks there is no dropout. `train()` and
    `eval()` have no effect, so threads can share a network.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(config.layer_sizes)
        )

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Computes the logits of the images `x`.

        Args:
            x: normalised pixels, (B, 784).
            masks: one mask per hidden layer, broadcastable to that layer's (B, units). Kept units
                are scaled by 1 / (1 - rate), which preserves their expectation (inverted dropout;
                Srivastava et al. 2014, section 10). None keeps every unit, unscaled.

        Returns:
            Logits, (B, C).

        Raises:
            ShapeError: the number of masks differs from the number of hidden layers.
        """
        *hidden, output = self.layers
        if masks is not None and len(masks) != len(hidden):
            raise ShapeError(f"{len(hidden)} hidden layers need as many masks, not {len(masks)}")
        h = x
        for index, layer in enumerate(hidden):
            h = self.config.activate(layer(h))  # (B, units)
            if masks is not None:
                h = h * masks[index] / (1 - self.config.dropout_rates[index])
        logits: Tensor = output(h)
        return logits

    def parameter_count(self) -> int:
        """Counts the weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())
