"""The network as a torch module, which has gradients and moves to other devices."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.errors import ShapeError
from model.network import MLP, Linear, MLPConfig

# One mask per hidden layer, bool, (..., units); True keeps the unit. See `masks.draw_masks`.
Masks = Sequence[Tensor]


class TrainableMLP(nn.Module):
    """Linear layers with an activation function between them, and dropout after each of these.

    Dropout is an argument of the call, not a mode: without masks there is no dropout. `train()` and
    `eval()` have no effect, so threads can share a network.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(
            nn.Linear(inputs, outputs) for inputs, outputs in itertools.pairwise(config.layer_sizes)
        )

    @classmethod
    def from_network(cls, network: MLP) -> "TrainableMLP":
        """A module with a copy of the network's weights."""
        with torch.device("meta"):  # no weights are drawn from torch's global generator
            module = cls(network.config)
        weights = [torch.tensor(array) for layer in network.layers for array in layer]
        module.load_state_dict(dict(zip(module.state_dict(), weights, strict=True)), assign=True)
        return module

    def to_network(self) -> MLP:
        """The network with a copy of the module's weights."""
        arrays = [parameter.detach().cpu().numpy().copy() for parameter in self.parameters()]
        return MLP(self.config, tuple(map(Linear, arrays[::2], arrays[1::2])))

    def normalise(self, pixels: Tensor) -> Tensor:
        """The input for images, (B, 28, 28), ink 0 to 255, as `model.network.normalise`."""
        return (pixels.flatten(1) / 255 - self.config.mean) / self.config.std

    def answer(self, pixels: Tensor) -> Tensor:
        """Logits, float32, (B, C), of ink 0 to 255, (B, 28, 28)."""
        return self.forward(self.normalise(pixels))

    def forward(self, x: Tensor, masks: Masks | None = None, rows: Tensor | None = None) -> Tensor:
        """Computes the logits of the images `x`.

        Args:
            x: normalised pixels, (B, 784).
            masks: one mask per hidden layer, broadcastable to that layer's (B, units). Kept units
                are scaled by 1 / (1 - rate), which preserves their expectation (inverted dropout;
                Srivastava et al. 2014, section 10). None keeps every unit, unscaled.
            rows: the image of each pass, (passes,), where images have several passes. The first
                layer, which no mask precedes, is computed once per image.

        Returns:
            Logits, (B, C), or (passes, C).

        Raises:
            ShapeError: the number of masks differs from the number of hidden layers.
        """
        *hidden, output = self.layers
        if masks is not None and len(masks) != len(hidden):
            raise ShapeError(f"{len(hidden)} hidden layers need as many masks, not {len(masks)}")
        h = x
        for index, layer in enumerate(hidden):
            h = layer(h)  # (B, units)
            if index == 0 and rows is not None:
                h = h[rows]
            if self.config.activation == "relu":
                h = torch.relu(h)
            if masks is not None:
                h = h * masks[index] / (1 - self.config.dropout_rates[index])
        logits: Tensor = output(h)
        return logits
