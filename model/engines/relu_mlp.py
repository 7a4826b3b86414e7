"""The CPU engine: MC-dropout passes of a ReLU network, as fast as one core computes them.

What makes it fast:

1. Layer 1 is the same in every pass, and most of its inputs are black: it is one weighted sum over
   the rows of the inked pixels, with the normalisation folded into weights and bias.
2. After its ReLU, about one unit of layer 1 in five is active on digits. An inactive unit is 0 in
   every pass, so layer 2 multiplies the active ones only.
3. The scaling of kept units is folded into the next layer's weights. A mask costs one product with
   0 or 1, made from raw random bytes by one comparison.
4. The passes of an image are computed in blocks of a fixed number of rows, since matrix libraries
   give a row other low bits in other places and among other numbers of rows.
"""

from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from model.arrays import Floats, Integers, KeepMasks, Pixels
from model.network import MLP
from model.sampling.masks import Passes, balanced_keep, hidden_units, independent_keep
from model.uncertainty.statistics import softmax_in_place

# A pass is always in the same row of its block.
_BLOCK_ROWS = 64


class PreparedImage(NamedTuple):
    """What all passes of an image share.

    Attributes:
        passes: the passes that it is prepared for.
        active: indices of the active units of layer 1, (K,). All others are 0 in every pass.
        activations: layer 1 of the active units, (K,).
        balanced: balanced masks of the active and of all later hidden units, (T, K + units);
            None for independent masks, which are drawn pass by pass.
    """

    passes: Passes
    active: Integers
    activations: Floats
    balanced: KeepMasks | None


class ReluMlpEngine:
    """Computes answers on one CPU thread; see `Engine`.

    Args:
        network: a network with ReLU or identity activations; it is not changed.
    """

    def __init__(self, network: MLP) -> None:
        config = network.config
        self.dropout_sites = config.dropout_sites
        self.passes_computed = 0
        self._is_relu = config.activation == "relu"
        # For the whole process, and for good: a second thread is woken for each product, and on a
        # busy machine every product then waits for it.
        threadpool_limits(1, user_api="blas")
        first, *later = network.layers
        # W ((p / 255 - mean) / std) + b  =  (W / (255 std)) p + (b - mean / std W 1)
        weight = first.weight.astype(np.float64)
        self._ink_rows: Floats = (weight.T / (255 * config.std)).astype(np.float32, order="C")
        ink_bias = first.bias - weight.sum(axis=1) * (config.mean / config.std)
        self._ink_bias: Floats = ink_bias.astype(np.float32)
        self._plain = [(layer.weight.T.copy(), layer.bias) for layer in later]
        self._scaled = [
            ((layer.weight.T.astype(np.float64) / (1 - rate)).astype(np.float32), layer.bias)
            for layer, rate in zip(later, config.dropout_rates, strict=True)
        ]

    def predict_logits(self, pixels: Pixels) -> Floats:
        h = self._activate(self._first_layer(pixels))
        (weight, bias), *later = self._plain
        h = _sparse_product(h, weight) + bias
        for weight, bias in later:
            h = self._activate(h) @ weight + bias
        return h

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedImage:
        h = self._activate(self._first_layer(pixels))
        active = h.nonzero()[0]
        balanced = None
        if passes.estimator == "balanced":
            later = np.arange(len(h), hidden_units(self.dropout_sites))
            units = np.concatenate([active, later])
            balanced = balanced_keep(self.dropout_sites, passes.seed, passes.count, units)
        return PreparedImage(passes, active, h[active], balanced)

    def sample(self, prepared: PreparedImage, start: int, stop: int) -> Floats:
        first = start - start % _BLOCK_ROWS
        blocks = [
            self._block_probs(prepared, row)
            for row in range(first, max(stop, first + 1), _BLOCK_ROWS)
        ]
        self.passes_computed += stop - start
        return np.ascontiguousarray(np.concatenate(blocks)[start - first : stop - first])

    def _block_probs(self, prepared: PreparedImage, first: int) -> Floats:
        """The passes from the first on, and some that nobody reads, (rows, C)."""
        passes, active = prepared.passes, prepared.active
        if prepared.balanced is None:
            keep = independent_keep(self.dropout_sites, passes.seed, _BLOCK_ROWS, first_pass=first)
            later = np.arange(self.dropout_sites[0].units, keep.shape[1])
            keep = keep[:, np.concatenate([active, later])]
        else:
            keep = prepared.balanced[first : first + _BLOCK_ROWS]
            keep = np.resize(keep, (_BLOCK_ROWS, keep.shape[1]))
        sizes = [len(active), *(site.units for site in self.dropout_sites[1:])]
        masks = np.split(keep, np.cumsum(sizes)[:-1], axis=1)
        (weight, bias), *later_layers = self._scaled
        h = (prepared.activations * masks[0]) @ weight[active] + bias
        for (weight, bias), mask in zip(later_layers, masks[1:], strict=True):
            h = (self._activate(h) * mask) @ weight + bias
        # Class by class, so that each step is one long vector.
        return softmax_in_place(np.ascontiguousarray(h.T), axis=0).T

    def _first_layer(self, pixels: Pixels) -> Floats:
        """Layer 1 before its activation, (512,): the weighted sum of the inked pixels' weights."""
        return _sparse_product(pixels.reshape(-1), self._ink_rows) + self._ink_bias

    def _activate(self, z: Floats) -> Floats:
        return np.maximum(z, np.float32(0)) if self._is_relu else z


def _sparse_product(values: Pixels | Floats, weight: Floats) -> Floats:
    """The product (K,) times (K, outputs), from the rows with a non-zero value only."""
    present = values.nonzero()[0]
    product: Floats = values[present].astype(np.float32, copy=False) @ weight.take(present, axis=0)
    return product
