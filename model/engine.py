"""The engine: MC-dropout passes of one image at a time, as fast as one CPU core allows.

What makes it fast, for one image and T passes:

1. Layer 1 is the same in every pass and sees black paper mostly: one weighted sum over the rows of
   the inked pixels only (`embedding_bag`), the normalisation folded into weights and bias.
2. After its ReLU few units of layer 1 are alive, about one in seven on digits. A silent unit is silent
   in every pass, so layer 2 multiplies the living ones only. Their activations are folded into layer
   2's rows once, so that the left factor is the bare 0/1 mask.
3. The scaling of kept units is folded into the next layer's weights: a mask costs one product with 0
   or 1, made from raw random bytes by one comparison.
4. All passes of a block are one matrix product per layer; a block's activations stay in the L2 cache.

Images are computed one by one. They share no product, so an answer cannot depend on what else is
asked at the same time. What remains is that a pass must not depend on how many passes are asked for:
that holds where the matrix library gives a row the same bits whatever the number of rows (from four
on; fewer take another path), which `_rows_are_invariant` checks once. Where it does not hold, every
product has the same number of rows.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.masks import byte_layout, drop_thresholds, random_bytes
from model.mlp import MLP
from model.preprocessing import Pixels

# Passes per product: 128 rows of the widest activation, 128 kB, lie well within an L2 cache.
BLOCK_PASSES = 128
# Matrix libraries compute one to three rows by a path of their own, with other low bits.
_LEAST_ROWS = 4
# The output layer is padded to a whole vector, since narrow products also depend on alignment.
_OUTPUT_MULTIPLE = 16


@dataclass(frozen=True)
class PreparedImage:
    """What all passes of an image share.

    Attributes:
        active: indices of the layer-1 units that are not silent, int64, (K,).
        folded: their activations times layer 2's weights, float32, (K, units of layer 2).
    """

    active: NDArray[np.int64]
    folded: Tensor


class Engine:
    """Answers for single images from one network on one CPU thread.

    Deterministic answers may be asked for from any thread; the sampling methods reuse buffers and
    belong to one thread at a time.
    """

    def __init__(self, network: MLP) -> None:
        config = network.config
        self.network = network
        self.config = config
        self.passes_computed = 0
        with torch.inference_mode():
            self._fold_weights()
            widest = max(config.layer_sizes[1:])
            self._left = torch.empty(BLOCK_PASSES * widest)
            self._right = torch.empty(BLOCK_PASSES * widest)
            self._rows_vary = self._rows_are_invariant()

    def _fold_weights(self) -> None:
        config = self.config
        layers = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        weights = [layer.weight.double() for layer in layers]
        biases = [layer.bias.double() for layer in layers]
        # W ((p / 255 - mean) / std) + b  =  (W / (255 std)) p + (b - mean / std W 1)
        self._ink_rows = (weights[0].T / (255 * config.std)).float().contiguous()  # (784, 512)
        self._ink_bias = (biases[0] - weights[0].sum(dim=1) * (config.mean / config.std)).float()
        self._weights: list[Tensor] = []  # of the stochastic layers, (inputs, outputs)
        self._biases: list[Tensor] = []
        for weight, bias, rate in zip(weights[1:], biases[1:], config.dropout_rates, strict=True):
            padding = -len(bias) % _OUTPUT_MULTIPLE
            self._weights.append(F.pad(weight.T / (1 - rate), (0, padding)).float().contiguous())
            self._biases.append(F.pad(bias, (0, padding)).float())
        self._later_layers = layers[1:]
        layout = byte_layout(config)
        self._row_bytes = layout.row_bytes
        self._first_units = config.hidden_sizes[0]
        self._mask_slices = [
            slice(columns.start - self._first_units, columns.stop - self._first_units) for columns in layout.slices[1:]
        ]
        thresholds = np.repeat(np.array(drop_thresholds(config), dtype=np.uint8), config.hidden_sizes)
        self._first_threshold = thresholds[0]
        self._later_thresholds = thresholds[self._first_units :]
        self._one_bag = torch.zeros(1, dtype=torch.int64)

    def predict_probs(self, pixels: Pixels) -> NDArray[np.float32]:
        """Deterministic class probabilities, dropout off.

        Args:
            pixels: ink 0 to 255, (28, 28).

        Returns:
            float32, (C,).
        """
        with torch.inference_mode():
            h = self._first_layer(pixels)
            for layer in self._later_layers:
                h = F.linear(h.relu_(), layer.weight, layer.bias)
            probs: NDArray[np.float32] = h.softmax(dim=0).numpy()
            return probs

    def prepare(self, pixels: Pixels) -> PreparedImage:
        """Computes layer 1 and what the passes share of layer 2.

        Args:
            pixels: ink 0 to 255, (28, 28).
        """
        with torch.inference_mode():
            h = self._first_layer(pixels).relu_()
            active = h.numpy().nonzero()[0]
            units = torch.from_numpy(active)
            folded = self._weights[0].index_select(0, units).mul_(h.index_select(0, units)[:, None])
            return PreparedImage(active, folded)

    def _first_layer(self, pixels: Pixels) -> Tensor:
        """Layer 1 before its ReLU, (512,): the weighted sum of the inked pixels' weights."""
        ink = pixels.reshape(-1)
        inked = ink.nonzero()[0]
        total = F.embedding_bag(
            torch.from_numpy(inked),
            self._ink_rows,
            self._one_bag,
            mode="sum",
            per_sample_weights=torch.from_numpy(ink[inked].astype(np.float32)),
        )
        return total[0].add_(self._ink_bias)

    def sample_probs(self, image: PreparedImage, seed: int, passes: int, *, first_pass: int = 0) -> NDArray[np.float32]:
        """Class probabilities of consecutive passes with independent masks.

        Args:
            image: from `prepare`.
            seed: 0 to `masks.MAX_SEED`; with the number of a pass it determines that pass.
            passes: T, how many passes.
            first_pass: number of the first one, from 0.

        Returns:
            float32, (T, C); each row is bit for bit the same whatever `passes` and `first_pass`.
        """
        probs = np.empty((passes, self.config.layer_sizes[-1]), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, passes, BLOCK_PASSES):
                count = min(BLOCK_PASSES, passes - start)
                # Rows beyond the last pass asked for are computed and dropped.
                rows = max(count, _LEAST_ROWS) if self._rows_vary else BLOCK_PASSES
                draws = random_bytes(seed, first_pass + start, rows, self._row_bytes)
                first_keep = draws.take(image.active, axis=1) >= self._first_threshold
                units = self._first_units + len(self._later_thresholds)
                later_keep = draws[:, self._first_units : units] >= self._later_thresholds
                logits = self._block_logits(image, first_keep, later_keep)
                probs[start : start + count] = _softmax(logits[:count, : probs.shape[1]])
                self.passes_computed += count
        return probs

    def _block_logits(self, image: PreparedImage, first_keep: NDArray[np.bool_], later_keep: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Logits of one block, (rows, C padded).

        Args:
            image: from `prepare`.
            first_keep: masks of layer 1's active units, (rows, K).
            later_keep: masks of all later layers, side by side, (rows, units).
        """
        rows = len(first_keep)
        # Converting bytes to floats is five times faster than converting booleans.
        left = _view(self._left, rows, first_keep.shape[1]).copy_(torch.from_numpy(first_keep.view(np.uint8)))
        keep = torch.from_numpy(later_keep.view(np.uint8)).float()
        h = torch.addmm(self._biases[0], left, image.folded, out=_view(self._right, rows, len(self._biases[0])))
        free = self._left
        for columns, weight, bias in zip(self._mask_slices, self._weights[1:], self._biases[1:], strict=True):
            h = h[:, : columns.stop - columns.start].relu_().mul_(keep[:, columns])
            busy = self._right if free is self._left else self._left
            h = torch.addmm(bias, h, weight, out=_view(free, rows, len(bias)))
            free = busy
        logits: NDArray[np.float32] = h.numpy()
        return logits

    def _rows_are_invariant(self) -> bool:
        """Whether a row of each product has the same bits for every number of rows in a block."""
        generator = torch.Generator().manual_seed(0)
        units = self._first_units
        living = sorted({1, units // 16, units // 7, units // 3, units})
        products = [(self._weights[0][:k], self._biases[0]) for k in living if k > 0]
        products += list(zip(self._weights[1:], self._biases[1:], strict=True))
        for weight, bias in products:
            left = torch.rand(BLOCK_PASSES, len(weight), generator=generator)
            whole = torch.addmm(bias, left, weight)
            for rows in range(_LEAST_ROWS, BLOCK_PASSES):
                if not torch.equal(torch.addmm(bias, left[:rows], weight), whole[:rows]):
                    return False
        return True


def _view(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Softmax over the classes, (T, C), computed class by class so that each step is one long vector."""
    z = np.ascontiguousarray(logits.T)  # (C, T)
    z -= z.max(axis=0)
    np.exp(z, out=z)
    z /= z.sum(axis=0)
    return z.T
