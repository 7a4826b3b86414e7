"""The networks as torch modules, which have gradients and move to other devices."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from model.arrays import Floats, Pixels
from model.checkpoint import Network
from model.engines import build_engine
from model.engines.sequential import as_sequential
from model.errors import ShapeError
from model.layered import InputSpec, LayeredConfig, LayeredNetwork, as_mlp, spec_of
from model.layers import (
    Conv2dLayer,
    DropoutLayer,
    FlattenLayer,
    IdentityLayer,
    Layer,
    LinearLayer,
    MaxPool2dLayer,
    ReluLayer,
)
from model.literals import SIDE
from model.network import MLP, Linear, MLPConfig
from model.sampling.masks import DropoutSite, Passes, draw_masks, round_rate, split_by_site
from training.config import TrainConfig

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
        self.dropout_sites = config.dropout_sites
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


class TrainableLayers(nn.Module):
    """A network of any layers for pictures of digits; to its callers it is as `TrainableMLP`."""

    def __init__(self, config: LayeredConfig) -> None:
        super().__init__()
        self.config = config
        zeros = {name: np.zeros(shape, np.float32) for name, shape in config.tensor_shapes.items()}
        self.preparation, *layers = as_sequential(LayeredNetwork(config, zeros))
        self.layers = nn.ModuleList(layers)
        self.dropout_sites = tuple(
            DropoutSite(math.prod(shape), layer.rate)
            for layer, shape in zip(config.layers, config.shapes, strict=False)
            if isinstance(layer, DropoutLayer)
        )

    def to_network(self) -> LayeredNetwork:
        """The network with a copy of the module's weights."""
        arrays = [parameter.detach().cpu().numpy().copy() for parameter in self.parameters()]
        names = self.config.tensor_shapes
        return LayeredNetwork(self.config, dict(zip(names, arrays, strict=True)))

    def normalise(self, pixels: Tensor) -> Tensor:
        """The input for images, (B, 28, 28), ink 0 to 255: (B, 784)."""
        x: Tensor = self.preparation(pixels)
        return x.flatten(1)

    def answer(self, pixels: Tensor) -> Tensor:
        """Logits, float32, (B, C), of ink 0 to 255, (B, 28, 28)."""
        return self.forward(self.normalise(pixels))

    def forward(self, x: Tensor, masks: Masks | None = None, rows: Tensor | None = None) -> Tensor:
        """Computes logits; see `TrainableMLP.forward`."""
        h, left = x.view(-1, *self.config.input.layer_shape), list(masks or ())
        for layer in self.layers:
            if not isinstance(layer, nn.Dropout):
                h = layer(h)
            elif masks is not None:
                if rows is not None and len(left) == len(masks):
                    h = h[rows]
                h = h * left.pop(0).view(-1, *h.shape[1:]) / (1 - layer.p)
        return h


def sample_logits(network: Network, pixels: Pixels, passes: Passes) -> Floats:
    """The logits of each pass for one picture, (T, C); an engine samples their softmax."""
    if isinstance(network, LayeredNetwork):
        network = as_mlp(network) or network
    sites = build_engine(network).dropout_sites
    masks = iter(split_by_site(draw_masks(sites, passes), sites))
    h = torch.from_numpy(pixels.astype(np.float32)).view(1, *spec_of(network).shape)
    with torch.inference_mode():
        for layer in as_sequential(network):
            if isinstance(layer, nn.Dropout | nn.Dropout2d):
                shape = h.shape[1:] if isinstance(layer, nn.Dropout) else (h.shape[1], 1, 1)
                h = h * torch.from_numpy(next(masks)).view(-1, *shape) / (1 - layer.p)
            else:
                h = layer(h)
    return np.asarray(h)


Trainable: TypeAlias = TrainableMLP | TrainableLayers


def build_network(
    config: TrainConfig, labels: tuple[str, ...], mean: float, std: float
) -> Trainable:
    """The network that the settings name, for pixels of this mean and standard deviation."""
    rates = tuple(map(round_rate, config.dropout))
    if config.network == "mlp":
        described = MLPConfig(dropout_rates=rates, labels=labels, mean=mean, std=std)
        return TrainableMLP(replace(described, activation=config.activation))
    spec = InputSpec((1, SIDE, SIDE), "uint8", 1 / 255, (mean,), (std,), preparation="digit")
    activation: Layer = ReluLayer() if config.activation == "relu" else IdentityLayer()
    return TrainableLayers(LayeredConfig(spec, labels, lenet(len(labels), rates, activation)))


def lenet(classes: int, rates: Sequence[float], activation: Layer) -> tuple[Layer, ...]:
    """LeNet as Caffe has it, which Gal and Ghahramani 2016 use: 431,080 parameters.

    Args:
        classes: how many.
        rates: of the dropout after each convolution's pooling, which a rate of 0 leaves out, and
            after the hidden linear layer.
        activation: of the hidden linear layer; the convolutions have none.
    """
    pooling = MaxPool2dLayer((2, 2), (2, 2))
    first, second, hidden = map(DropoutLayer, rates)
    layers = (
        *(Conv2dLayer(20, (5, 5)), pooling, first),  # (20, 12, 12)
        *(Conv2dLayer(50, (5, 5)), pooling, FlattenLayer(), second),  # (800,)
        *(LinearLayer(500), activation, hidden),
        LinearLayer(classes),
    )
    return tuple(each for each in layers if each != DropoutLayer(0.0) or each is hidden)
