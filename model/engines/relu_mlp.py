"""The CPU engine: MC-dropout passes of a ReLU network, as fast as one core computes them.

What makes it fast:

1. Layer 1 is the same in every pass, and most of its inputs are black: it is one weighted sum over
   the rows of the inked pixels, with the normalisation folded into weights and bias.
2. After its ReLU, about one unit of layer 1 in five is active on digits. An inactive unit is 0 in
   every pass. Layer 2 adds sums of four active units, from a table.
3. The later layers add the rows of the units that are active and kept, about one in five.
4. The loops are compiled, see `kernels`, and release the interpreter's lock.
"""

from typing import NamedTuple

import numpy as np

from model.arrays import Floats, Integers, Pixels
from model.compiling import compile_all
from model.engines import kernels
from model.network import MLP, Linear, normalise
from model.sampling.masks import Bytes, Passes, draw_masks, scales, thresholds

# Layers are padded to whole vectors with columns of zeros, which are never active.
_VECTOR = 16
_WIDEST_TILE = 256
_NO_MASKS = np.empty((0, 0), np.uint8)


class PreparedInputs(NamedTuple):
    """What all passes of an image share.

    Attributes:
        passes: which passes.
        inputs: of the first stochastic layer, (units,).
        balanced: balanced masks, (T, units); empty if the masks are independent.
    """

    passes: Passes
    inputs: Floats
    balanced: Bytes


class ReluMlpEngine:
    """Computes answers on the calling thread; see `Engine`. Any threads may share it.

    Args:
        network: a network with ReLU or linear hidden units; it is not changed.

    Attributes:
        parameters: biases and weights of all layers; see `kernels.Layer`.
        stochastic: the layers after the first dropout site.
        is_relu: whether hidden units are rectified.
    """

    def __init__(self, network: MLP) -> None:
        compile_all()
        self.dropout_sites = network.config.dropout_sites
        self.block_passes = 32  # each call makes a table, which takes as long as twenty passes
        self.passes_computed = 0
        self._config = network.config
        self.is_relu = network.config.activation == "relu"
        drops_inputs = self.dropout_sites[0].is_input
        linear = network.layers if drops_inputs else fold_normalisation(network)
        self._layers, self.parameters = _pack(linear)
        # The layers before the first dropout site, and those after it.
        self._shared = self._layers[: 0 if drops_inputs else 1]
        self.stochastic = self._layers[len(self._shared) :]

    def predict_logits(self, pixels: Pixels) -> Floats:
        logits = np.empty(self._config.layer_sizes[-1], np.float32)
        kernels.forward(self._inputs(pixels), self.parameters, self._layers, self.is_relu, logits)
        return logits

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedInputs:
        inputs = self._inputs(pixels)
        if len(self._shared):
            hidden = np.empty(self.dropout_sites[0].units, np.float32)
            kernels.forward(inputs, self.parameters, self._shared, self.is_relu, hidden)
            inputs = np.maximum(hidden, 0) if self.is_relu else hidden
        balanced = _NO_MASKS
        if passes.estimator == "balanced":
            balanced = draw_masks(self.dropout_sites, passes).view(np.uint8)
        return PreparedInputs(passes, inputs, balanced)

    def sample(self, prepared: PreparedInputs, start: int, stop: int) -> Floats:
        probs = np.empty((stop - start, self._config.layer_sizes[-1]), np.float32)
        dropout = prepared.passes.dropout
        kernels.sample_passes(
            prepared.inputs,
            self.parameters,
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

    def _inputs(self, pixels: Pixels) -> Floats:
        if len(self._shared):
            return pixels.reshape(-1).astype(np.float32)
        inputs: Floats = normalise(pixels, self._config)[0]
        return inputs


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


def _pack(linear: tuple[Linear, ...]) -> tuple[Integers, Floats]:
    """Lays the layers out as the kernels read them; see `kernels.Layer`."""
    layers, parts, begin = [], [], 0
    for weight, bias in linear:
        outputs, inputs = weight.shape
        tiles = -(-outputs // _WIDEST_TILE)
        width = -(-outputs // (tiles * _VECTOR)) * _VECTOR
        padding = tiles * width - outputs
        rows = np.pad(weight.T, ((0, 0), (0, padding)))  # (inputs, outputs)
        parts += [np.pad(bias, (0, padding)), rows.reshape(inputs, tiles, width).swapaxes(0, 1)]
        layers.append((inputs, tiles * width, width, begin))
        begin += (inputs + 1) * tiles * width
    flat = np.concatenate([part.reshape(-1) for part in parts])
    return np.array(layers, np.int64), flat
