"""The dropout-regularised multi-layer perceptron."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from model.errors import ShapeError
from model.literals import Activation

# One keep-mask per hidden layer, bool, (..., units): True keeps the unit. See `masks.draw_masks`.
Masks = Sequence[Tensor]


# A rate is a multiple of 1/256, so that one random byte decides one unit exactly.
RATE_STEPS = 256


def round_rate(rate: float) -> float:
    """The multiple of 1/256 nearest to `rate`."""
    return round(rate * RATE_STEPS) / RATE_STEPS


@dataclass(frozen=True)
class MLPConfig:
    """All that is needed, besides its weights, to rebuild a network and to feed it.

    Attributes:
        layer_sizes: units per layer, input and output included.
        dropout_rates: per hidden layer, the probability of zeroing a unit, in [0, 1);
            multiples of 1/256.
        input_shape: rows and columns of an image; their product is `layer_sizes[0]`.
        labels: the name of each class.
        mean: mean of the training pixels scaled to [0, 1]; see `preprocessing.normalise`.
        std: their standard deviation.
        activation: of the hidden units; "linear" is none, for studying what it is good for.

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
        """What hidden units make of the weighted sums of their inputs."""
        return torch.relu(z) if self.activation == "relu" else z


class MLP(nn.Module):
    """Linear layers with ReLU between them, and dropout after each hidden activation.

    Dropout is an argument of the call, never a mode: no masks, no dropout. `train()` and `eval()`
    change nothing, so a network shared by threads gives each caller what it asked for.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(config.layer_sizes)
        )

    def forward(self, x: Tensor, masks: Masks | None = None) -> Tensor:
        """Logits of the images `x`.

        Args:
            x: normalised pixels, (B, 784).
            masks: one keep-mask per hidden layer, broadcastable to that layer's (B, units); kept
                units are scaled by 1 / (1 - rate), so that their expectation stays (inverted
                dropout, Srivastava et al. 2014, section 10). None keeps every unit, unscaled.

        Returns:
            Logits, (B, C).

        Raises:
            ShapeError: not one mask per hidden layer.
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
        """Number of weights and biases."""
        return sum(parameter.numel() for parameter in self.parameters())
