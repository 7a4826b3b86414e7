"""The CPU engine: MC-dropout passes of a ReLU network, as fast as one core computes them.

Layer 1 is computed once per image, the others per pass. The loops are in `kernels`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model.arrays import Floats, Integers, Pixels
from model.compiling import compile_all
from model.engines import kernels
from model.network import MLP, fold_normalisation, normalise
from model.sampling.masks import Bytes, Passes, draw_masks, thresholds

# Layers are padded to whole vectors with columns of zeros, which are never active.
_VECTOR, _WIDEST_TILE = 16, 256
_NO_MASKS = np.empty((0, 0), np.uint8)


class PreparedInputs(NamedTuple):
    """What all passes of an image share."""

    passes: Passes
    inputs: Floats  # of the first stochastic layer, (units,)
    balanced: Bytes  # masks, (T, units); empty if they are independent


class ReluMlpEngine:
    """Computes the answers of a network with ReLU or linear hidden units; see `Engine`.

    Attributes:
        weights: of all layers, with their biases; see `kernels.Layer`.
        stochastic: the layers after the first dropout site.
    """

    def __init__(self, network: MLP) -> None:
        compile_all()
        self.dropout_sites = network.config.dropout_sites
        self.block_passes = 32  # each call makes a table, which takes as long as several passes
        self.passes_computed = 0
        self._config = network.config
        self._shared = 0 if self.dropout_sites[0].is_input else 1  # layers before the first site
        self._layers, self.weights = _pack(network, self._shared)
        self.stochastic = self._layers[self._shared :]

    def predict_logits(self, pixels: Pixels) -> Floats:
        return self._forward(pixels, self._layers, self._config.layer_sizes[-1])

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedInputs:
        shared = self._layers[: self._shared]
        inputs = self._forward(pixels, shared, self.dropout_sites[0].units)
        is_balanced = passes.estimator == "balanced"
        keep = draw_masks(self.dropout_sites, passes).view(np.uint8) if is_balanced else _NO_MASKS
        return PreparedInputs(passes, inputs, keep)

    def sample(self, prepared: PreparedInputs, start: int, stop: int) -> Floats:
        passes, inputs, balanced = prepared
        probs = np.empty((stop - start, self._config.layer_sizes[-1]), np.float32)
        network = self.weights, self.stochastic, thresholds(self.dropout_sites, passes.dropout)
        kernels.sample_passes(inputs, network, passes.seed, start, balanced, probs)
        self.passes_computed += len(probs)
        return probs

    def sample_images(self, pixels: Pixels, seeds: Sequence[int], passes: Passes) -> Floats:
        probs = np.empty((len(pixels), passes.count, self._config.layer_sizes[-1]), np.float32)
        network = self.weights, self._layers, thresholds(self.dropout_sites, passes.dropout)
        inputs, is_balanced = self._inputs(pixels), passes.estimator == "balanced"
        questions = self._shared, np.array(seeds, np.int64), is_balanced
        kernels.sample_images(inputs.reshape(len(pixels), -1), network, *questions, probs)
        self.passes_computed += len(pixels) * passes.count
        return probs

    def _forward(self, pixels: Pixels, layers: Integers, units: int) -> Floats:
        """Computes layers without dropout, before the activation of the last."""
        outputs = np.empty(units, np.float32)
        kernels.forward(self._inputs(pixels).reshape(-1), self.weights, layers, outputs)
        return outputs

    def _inputs(self, pixels: Pixels) -> Floats:
        if self._shared:  # which has the normalisation in it
            return pixels.astype(np.float32)
        return normalise(pixels, self._config)


def _pack(network: MLP, shared: int) -> tuple[Integers, Floats]:
    """Lays the layers out as the kernels read them; see `kernels.Layer`."""
    layers, parts, begin, unit = [], [], 0, 0
    for index, (weight, bias) in enumerate(
        fold_normalisation(network) if shared else network.layers
    ):
        outputs, inputs = weight.shape
        tiles = -(-outputs // _WIDEST_TILE)
        width = -(-outputs // (tiles * _VECTOR)) * _VECTOR
        padding = tiles * width - outputs
        rows = np.pad(weight.T, ((0, 0), (0, padding)))  # (inputs, outputs)
        parts += [np.pad(bias, (0, padding)), rows.reshape(inputs, tiles, width).swapaxes(0, 1)]
        is_rectified = index > 0 and network.config.activation == "relu"
        layers.append((inputs, tiles * width, width, begin, unit, is_rectified))
        begin += (inputs + 1) * tiles * width
        unit += inputs if index >= shared else 0
    return np.array(layers, np.int64), np.concatenate([part.reshape(-1) for part in parts])
