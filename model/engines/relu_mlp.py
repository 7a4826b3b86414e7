"""The CPU engine: MC-dropout passes of a ReLU network, as fast as one core computes them.

Layer 1 is computed once per image, from the inked pixels; the other layers per pass, from the units
that are active and kept. The loops are in `kernels`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model.arrays import Floats, Integers, Pixels
from model.compiling import compile_all
from model.engines import kernels
from model.network import MLP, Linear, fold_normalisation, normalise
from model.sampling.masks import Bytes, Passes, draw_masks, scales, thresholds

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
        is_relu: whether hidden units are rectified.
    """

    def __init__(self, network: MLP) -> None:
        compile_all()
        self.dropout_sites = network.config.dropout_sites
        self.block_passes = 32  # each call makes a table, which takes as long as several passes
        self.passes_computed = 0
        self._config = network.config
        self.is_relu = network.config.activation == "relu"
        shared = 0 if self.dropout_sites[0].is_input else 1  # layers before the first site
        linear = fold_normalisation(network) if shared else network.layers
        self._layers, self.weights = _pack(linear, shared)
        self._shared, self.stochastic = self._layers[:shared], self._layers[shared:]

    def predict_logits(self, pixels: Pixels) -> Floats:
        logits = np.empty(self._config.layer_sizes[-1], np.float32)
        kernels.forward(self._inputs(pixels), self.weights, self._layers, self.is_relu, logits)
        return logits

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedInputs:
        inputs = self._inputs(pixels)
        if len(self._shared):
            hidden = np.empty(self.dropout_sites[0].units, np.float32)
            kernels.forward(inputs, self.weights, self._shared, self.is_relu, hidden)
            inputs = np.maximum(hidden, 0) if self.is_relu else hidden
        is_balanced = passes.estimator == "balanced"
        keep = draw_masks(self.dropout_sites, passes).view(np.uint8) if is_balanced else _NO_MASKS
        return PreparedInputs(passes, inputs, keep)

    def sample(self, prepared: PreparedInputs, start: int, stop: int) -> Floats:
        probs = np.empty((stop - start, self._config.layer_sizes[-1]), np.float32)
        dropout = prepared.passes.dropout
        kernels.sample_passes(
            prepared.inputs,
            self.weights,
            self.stochastic,
            thresholds(self.dropout_sites, dropout),
            scales(self.dropout_sites, dropout),
            self.is_relu,
            prepared.passes.seed,
            start,
            prepared.balanced,
            probs,
        )
        self.passes_computed += len(probs)
        return probs

    def sample_images(self, pixels: Pixels, seeds: Sequence[int], passes: Passes) -> Floats:
        probs = np.empty((len(pixels), passes.count, self._config.layer_sizes[-1]), np.float32)
        kernels.sample_images(
            self._inputs(pixels).reshape(len(pixels), -1),
            self.weights,
            self._shared,
            self.stochastic,
            thresholds(self.dropout_sites, passes.dropout),
            scales(self.dropout_sites, passes.dropout),
            self.is_relu,
            np.array(seeds, np.int64),
            passes.estimator == "balanced",
            probs,
        )
        self.passes_computed += len(pixels) * passes.count
        return probs

    def _inputs(self, pixels: Pixels) -> Floats:
        if len(self._shared):
            return pixels.reshape(-1).astype(np.float32)
        return normalise(pixels, self._config).reshape(-1)


def _pack(linear: tuple[Linear, ...], shared: int) -> tuple[Integers, Floats]:
    """Lays the layers out as the kernels read them; see `kernels.Layer`."""
    layers, parts, begin, unit = [], [], 0, 0
    for index, (weight, bias) in enumerate(linear):
        outputs, inputs = weight.shape
        tiles = -(-outputs // _WIDEST_TILE)
        width = -(-outputs // (tiles * _VECTOR)) * _VECTOR
        padding = tiles * width - outputs
        rows = np.pad(weight.T, ((0, 0), (0, padding)))  # (inputs, outputs)
        parts += [np.pad(bias, (0, padding)), rows.reshape(inputs, tiles, width).swapaxes(0, 1)]
        layers.append((inputs, tiles * width, width, begin, unit))
        begin += (inputs + 1) * tiles * width
        unit += inputs if index >= shared else 0
    flat = np.concatenate([part.reshape(-1) for part in parts])
    return np.array(layers, np.int64), flat
