"""The CPU engine: MC-dropout passes of a ReLU network, as fast as one core computes them.

What makes it fast:

1. Layer 1 is the same in every pass, and most of its inputs are black: it is one weighted sum over
   the rows of the inked pixels, with the normalisation folded into weights and bias.
2. After its ReLU, about one unit of layer 1 in five is active on digits. An inactive unit is 0 in
   every pass, so layer 2 multiplies the active ones only.
3. The scaling of kept units is folded into the next layer's weights. A mask costs one product with
   0 or 1, made from raw random bytes by one comparison.
4. The passes of a block, of one image or of several, are one matrix product per layer, and the
   activations of a block stay in the L2 cache. See `blocks` for when images can share a block.
5. Everything is NumPy, the bias is one more row of the weights, and buffers are reused: at this
   size a call costs as much as its arithmetic.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from model.arrays import Floats, KeepMasks, Pixels
from model.engines.blocks import BLOCK_ROWS, LEAST_ROWS, BlockEngine, Segment
from model.engines.protocol import PreparedImage
from model.errors import PrecisionError
from model.literals import Precision
from model.network import MLP
from model.sampling.masks import (
    Passes,
    drop_thresholds,
    hidden_units,
    random_bytes,
    row_bytes,
)

# Writes left times weight into out, all float32: (rows, K), (K, N), (rows, N).
Product = Callable[[Floats, Floats, Floats], object]

# Where libraries change their way of computing depends on the rows and on the active units.
_SOME_ROWS = [*range(LEAST_ROWS, 64), *range(64, BLOCK_ROWS, 16)]
# Layers are padded to whole vectors, since the last bits of other widths depend on the rows too.
_UNIT_MULTIPLE = 16
# bfloat16 products are compiled per shape, in half a millisecond: padding keeps the shapes few.
_BFLOAT16_ROWS = 16
_BFLOAT16_UNITS = 32


class ReluMlpEngine(BlockEngine):
    """Computes answers on one CPU thread; see `Engine`.

    Args:
        network: a network with ReLU activations; it is not changed.
        precision: of the products of the hidden stochastic layers. bfloat16 carries 8 significant
            bits.

    Raises:
        PrecisionError: the processor has no bfloat16 products.
        CheckpointError: the network has activations other than ReLU.
    """

    def __init__(self, network: MLP, precision: Precision = "float32") -> None:
        if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise PrecisionError("this processor has no bfloat16 products; use float32")
        super().__init__(network)
        config = network.config
        # For the whole process, and for good: a second thread is woken for each product, and on a
        # busy machine every product then waits for it.
        threadpool_limits(1, user_api="blas")
        self._row_bytes = row_bytes(config)
        # Repeated for each row of a block, since one long comparison takes a third of the time of
        # many short ones.
        thresholds = np.zeros((BLOCK_ROWS, self._row_bytes), np.uint8)
        thresholds[:, : hidden_units(config)] = drop_thresholds(config)
        self._thresholds = thresholds
        with torch.inference_mode():
            self._fold_weights()
        self._choose_products(precision)
        # The operands of layer 2, for the passes of one image.
        self._left = np.empty(BLOCK_ROWS * len(self._weights[0]), np.float32)
        self._active_weights = np.empty_like(self._weights[0])
        # The hidden layers from the second on, each with a column of ones for the next bias.
        self._hidden = [
            np.ones((BLOCK_ROWS, len(weight)), np.float32) for weight in self._weights[1:]
        ]
        self._zeros = [np.zeros_like(h) for h in self._hidden]
        self._keep = [np.ones_like(h, np.bool_) for h in self._hidden]

    def _fold_weights(self) -> None:
        config = self.config
        layers = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        # Without dropout, layers 1 and 2 read the rows of inked pixels and active units only: a
        # fifth of the weights, which then stay in the L2 cache. The later layers are so small that
        # choosing rows costs more than multiplying all.
        self._plain_layers = [
            (layer.weight.T.contiguous().numpy(), layer.bias.numpy()) for layer in layers[1:]
        ]
        # W ((p / 255 - mean) / std) + b  =  (W / (255 std)) p + (b - mean / std W 1)
        weight, bias = layers[0].weight.double(), layers[0].bias.double()
        ink_rows = weight.T / (255 * config.std)  # (784, 512)
        self._ink_rows: Floats = ink_rows.float().contiguous().numpy()
        ink_bias = bias - weight.sum(dim=1) * (config.mean / config.std)
        self._ink_bias: Floats = ink_bias.float().numpy()
        # The stochastic layers, (inputs + 1, outputs), padded; the last row is the bias.
        self._weights: list[Floats] = []
        for layer, rate in zip(layers[1:], config.dropout_rates, strict=True):
            extra_inputs = -layer.in_features % _UNIT_MULTIPLE if self._weights else 0
            extra_outputs = -layer.out_features % _UNIT_MULTIPLE
            scaled = F.pad(
                layer.weight.double().T / (1 - rate), (0, extra_outputs, 0, extra_inputs)
            )
            bias = F.pad(layer.bias.double(), (0, extra_outputs))
            self._weights.append(torch.cat([scaled, bias[None]]).float().numpy())

    def _choose_products(self, precision: Precision) -> None:
        self._row_multiple = _BFLOAT16_ROWS if precision == "bfloat16" else 1
        candidates: tuple[Product, ...] = np.matmul, _torch_product
        for exact in candidates:
            inner = _bfloat16_product if precision == "bfloat16" else exact
            # The output layer stays in float32: it is small, and its errors are the logits' errors.
            self._products: list[Product] = [inner] * (len(self._weights) - 1) + [exact]
            self._shares_blocks = self._rows_are_invariant()
            if self._shares_blocks:
                return

    def predict_logits(self, pixels: Pixels) -> list[float]:
        h = self._first_layer(pixels)
        (weight, bias), *later = self._plain_layers
        h = _sparse_product(np.maximum(h, 0, out=h), weight)
        h += bias
        for weight, bias in later:
            h = np.maximum(h, 0, out=h) @ weight
            h += bias
        logits: list[float] = h.tolist()
        return logits

    def prepare(self, pixels: Sequence[Pixels], passes: Sequence[Passes]) -> list[PreparedImage]:
        return [self._prepare_one(*each) for each in zip(pixels, passes, strict=True)]

    def _prepare_one(self, pixels: Pixels, passes: Passes) -> PreparedImage:
        h = self._first_layer(pixels)
        active = (h > 0).nonzero()[0]
        return PreparedImage(passes, active, h[active], self._draw_balanced(passes, active))

    def _first_layer(self, pixels: Pixels) -> Floats:
        """Layer 1 before its ReLU, (512,): the weighted sum of the inked pixels' weights."""
        h = _sparse_product(pixels.reshape(-1), self._ink_rows)
        h += self._ink_bias
        return h

    def _block_logits(self, block: Sequence[Segment]) -> Floats:
        rows = sum(segment.rows for segment in block)
        logits = np.empty((rows, self._weights[-1].shape[1]), np.float32)
        hidden = [h[:rows] for h in self._hidden]
        keep = [mask[:rows] for mask in self._keep]
        drawn = [mask[:, :n] for mask, n in zip(keep, self.config.hidden_sizes[1:], strict=True)]
        outputs = [*(h[:, :-1] for h in hidden), logits]  # without the ones for the biases
        row = 0
        for segment in block:
            below = row + segment.rows
            self._second_layer(segment, outputs[0][row:below], [mask[row:below] for mask in drawn])
            row = below
        for index, h in enumerate(hidden):
            # Whole buffers, including the ones: row by row, or with the number 0 for the zeros,
            # NumPy takes two to four times as long.
            np.maximum(h, self._zeros[index][:rows], out=h)
            np.multiply(h, keep[index], out=h)
            self._products[index + 1](h, self._weights[index + 1], outputs[index + 1])
        return logits

    def _second_layer(self, segment: Segment, out: Floats, later: Sequence[KeepMasks]) -> None:
        """Computes layer 2 before its ReLU, and the masks from layer 2 on.

        Args:
            segment: the passes.
            out: receives layer 2, (rows, units).
            later: receive the masks of each hidden layer but the first, (rows, units).
        """
        image, rows, k = segment.image, len(out), len(segment.image.active)
        if image.balanced is None:
            # Rows of padding are further passes, which nobody reads.
            draws = random_bytes(image.passes.seed, segment.first, rows, self._row_bytes)
            keep = draws.view(np.bool_)
            np.greater_equal(draws, self._thresholds[:rows], out=keep)
            first, begin = keep.take(image.active, axis=1), self._first_units
        else:
            keep = image.balanced[segment.first : segment.first + rows]
            keep = np.resize(keep, (rows, keep.shape[1]))
            first, begin = keep[:, :k], k
        for mask in later:
            mask[:] = keep[:, begin : (begin := begin + mask.shape[1])]
        left = self._left[: rows * (k + 1)].reshape(rows, k + 1)
        np.multiply(first, image.activations, out=left[:, :k])
        left[:, k] = 1
        # The weights are gathered anew for each block: they are then still in the cache.
        weights = self._active_weights[: k + 1]
        # All indices are in range; "clip" is the mode that writes without a copy.
        np.take(self._weights[0], image.active, axis=0, out=weights[:k], mode="clip")
        weights[k] = self._weights[0][-1]
        self._products[0](left, weights, out)

    def _rows_are_invariant(self) -> bool:
        """Whether a row of each product has the same bits in every place, among however many."""
        generator = np.random.default_rng(0)
        units = self._first_units
        active = [*range(1, units, 32), units]
        products = [(self._products[0], self._weights[0][-1 - k :]) for k in active]
        products += list(zip(self._products[1:], self._weights[1:], strict=True))
        for product, weight in products:
            left = generator.random((BLOCK_ROWS, len(weight)), np.float32)
            whole, part = np.empty((2, BLOCK_ROWS, weight.shape[1]), np.float32)
            product(left, weight, whole)
            for rows in _SOME_ROWS[:: self._row_multiple]:
                # The last rows: they differ from the whole in their number and in their places.
                product(left[-rows:], weight, part[-rows:])
                if not np.array_equal(part[-rows:], whole[-rows:]):
                    return False
        return True


def _sparse_product(values: Pixels | Floats, weight: Floats) -> Floats:
    """The product (K,) times (K, outputs), from the rows with a non-zero value only.

    In NumPy: at this size torch's own call costs more than the product.
    """
    present = values.nonzero()[0]
    product: Floats = values[present].astype(np.float32, copy=False) @ weight.take(present, axis=0)
    return product


def _torch_product(left: Floats, weight: Floats, out: Floats) -> None:
    torch.mm(torch.from_numpy(left), torch.from_numpy(weight), out=torch.from_numpy(out))


def _bfloat16_product(left: Floats, weight: Floats, out: Floats) -> None:
    padding = -len(weight) % _BFLOAT16_UNITS
    narrow_left = F.pad(torch.from_numpy(left).bfloat16(), (0, padding))
    narrow_weight = F.pad(torch.from_numpy(weight).bfloat16(), (0, 0, 0, padding))
    out[:] = (narrow_left @ narrow_weight).float().numpy()
