"""The engine for other devices, such as GPUs: torch's products, in blocks of a fixed size."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from model.arrays import Floats, Pixels
from model.engines.blocks import BLOCK_ROWS, BlockEngine, Segment
from model.engines.protocol import PreparedImage
from model.literals import Precision
from model.network import MLP, normalise
from model.sampling.masks import Passes, independent_keep


class DeviceEngine(BlockEngine):
    """Computes on any device of torch, without the shortcuts of `ReluMlpEngine`.

    Every product has the same number of rows, so that a pass has the same bits in every answer.

    Args:
        network: a network with ReLU activations; the engine copies it to the device.
        device: the device.
        precision: of the products of the hidden stochastic layers.

    Raises:
        CheckpointError: the network has activations other than ReLU.
    """

    def __init__(
        self, network: MLP, device: torch.device, precision: Precision = "float32"
    ) -> None:
        super().__init__(network)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._device = device
        on_device = copy.deepcopy(network).to(device)
        self._layers = [layer for layer in on_device.layers if isinstance(layer, nn.Linear)]

    def predict_logits(self, pixels: Pixels) -> list[float]:
        with torch.inference_mode():
            h = normalise(pixels, self.config).to(self._device)
            for layer in self._layers[:-1]:
                h = F.linear(h, layer.weight, layer.bias).relu()
            logits: list[float] = self._layers[-1](h)[0].tolist()
            return logits

    def prepare(self, pixels: Sequence[Pixels], passes: Sequence[Passes]) -> list[PreparedImage]:
        # All units count as active: leaving some out would give products of many shapes.
        active = np.arange(self._first_units)
        prepared = []
        with torch.inference_mode():
            for image, which in zip(pixels, passes, strict=True):
                h = self._layers[0](normalise(image, self.config).to(self._device)).relu()[0]
                balanced = self._draw_balanced(which, active)
                prepared.append(PreparedImage(which, active, h.cpu().numpy(), balanced))
        return prepared

    def _block_logits(self, block: Sequence[Segment]) -> Floats:
        (segment,) = block  # one image per block, since products of torch may depend on the rows
        image, passes = segment.image, segment.image.passes
        if image.balanced is None:
            keep = independent_keep(self.config, passes.seed, BLOCK_ROWS, first_pass=segment.first)
        else:
            keep = image.balanced[segment.first : segment.first + BLOCK_ROWS]
            keep = np.resize(keep, (BLOCK_ROWS, keep.shape[1]))
        first_rate, *rates = self.config.dropout_rates
        *hidden, output = self._layers[1:]
        with torch.inference_mode():
            on_device = torch.from_numpy(keep).to(self._device)
            first_mask, *masks = torch.split(on_device, list(self.config.hidden_sizes), dim=1)
            first = torch.from_numpy(image.activations).to(self._device)
            h = first * first_mask / (1 - first_rate)  # (rows, units)
            for layer, mask, rate in zip(hidden, masks, rates, strict=True):
                weight, bias = layer.weight.to(self._dtype), layer.bias.to(self._dtype)
                h = F.linear(h.to(self._dtype), weight, bias).relu().float() * mask / (1 - rate)
            logits: Floats = output(h).cpu().numpy()
        return logits
