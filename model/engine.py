"""The engine: MC-dropout passes of one image, as fast as one CPU core allows.

What makes it fast, for one image and T passes:

1. Layer 1 is the same in every pass and sees mostly black: it is one weighted sum over the rows of
   the inked pixels (`embedding_bag`), with the normalisation folded into weights and bias.
2. After its ReLU few units of layer 1 are alive, about one in seven on digits. A silent unit is
   silent in every pass, so layer 2 multiplies the living ones only. Their activations are folded
   into layer 2's weights once, so that the left factor is the bare 0/1 mask.
3. The scaling of kept units is folded into the next layer's weights: a mask costs one product with
   0 or 1, made from raw random bytes by one comparison.
4. The passes of a block are one matrix product per layer, and a block's activations stay in the L2
   cache.

Images are computed one by one. They share no product, so an answer cannot depend on what else is
asked at the same time. What remains is that a pass must not depend on how many passes are asked
for. That holds where the matrix library gives a row the same bits whatever the number of rows (from
four on; fewer take another path), which `_rows_are_invariant` finds out once. Where it does not
hold, every product gets the same number of rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from model.errors import ModelError
from model.masks import (
    Passes,
    balanced_keep,
    drop_thresholds,
    hidden_units,
    independent_keep,
    random_bytes,
    row_bytes,
)
from model.mlp import MLP
from model.preprocessing import Pixels, normalise

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Probs = NDArray[np.float32]
Keep = NDArray[np.bool_]

# Passes per product: 128 rows of the widest activation, 128 kB, lie well within an L2 cache.
BLOCK_PASSES = 128
# Matrix libraries compute one to three rows by a path of their own, with other low bits.
_LEAST_ROWS = 4
# The output layer is padded to a whole vector, since narrow products also depend on alignment.
_OUTPUT_MULTIPLE = 16
# bfloat16 products are compiled per shape, in half a millisecond: few shapes must do.
_BFLOAT16_ROWS = 16
_BFLOAT16_UNITS = 32


class PrecisionError(ModelError):
    """The processor cannot compute in the precision asked for."""


class _Block(NamedTuple):
    """Masks of consecutive passes; rows beyond the first `size` are padding."""

    size: int
    first: Keep  # (rows, active units of layer 1)
    later: Keep  # (rows, units of all later hidden layers side by side)


@dataclass(frozen=True)
class PreparedImage:
    """What all passes of an image share.

    Attributes:
        passes: which passes it is prepared for.
        active: the units of layer 1 that are not silent, int64, (K,).
        shared: what layer 2 is multiplied from, (K, units of layer 2), or on other devices layer 1
            itself, (units of layer 1,).
        balanced: the masks of balanced passes, (T, K + later hidden units); None: drawn pass by
            pass.
    """

    passes: Passes
    active: NDArray[np.int64]
    shared: Tensor
    balanced: Keep | None


class Engine:
    """Answers for single images from one network on one CPU thread.

    Deterministic answers may be asked for from any thread; `prepare` and `sample` reuse buffers and
    belong to one thread at a time.

    Args:
        network: the network; it is not changed.
        precision: of the hidden stochastic layers; bfloat16 carries 8 significant bits.

    Raises:
        PrecisionError: the processor has no bfloat16 products.
    """

    def __init__(self, network: MLP, precision: Precision = "float32") -> None:
        if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise PrecisionError("this processor has no bfloat16 products; use float32")
        config = network.config
        self.network = network
        self.config = config
        self.passes_computed = 0
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._row_multiple = _BFLOAT16_ROWS if precision == "bfloat16" else 1
        self._unit_multiple = _BFLOAT16_UNITS if precision == "bfloat16" else 1
        self._first_units = config.hidden_sizes[0]
        self._row_bytes = row_bytes(config)
        self._thresholds = drop_thresholds(config)
        with torch.inference_mode():
            self._fold_weights()
            widest = max(config.layer_sizes[1:]) + _BFLOAT16_UNITS
            self._buffers = tuple(
                torch.empty(BLOCK_PASSES * widest, dtype=self._dtype) for _ in range(2)
            )
            self._rows_vary = self._rows_are_invariant()

    def _fold_weights(self) -> None:
        config = self.config
        layers = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        self._later_layers = layers[1:]
        # W ((p / 255 - mean) / std) + b  =  (W / (255 std)) p + (b - mean / std W 1)
        weight, bias = layers[0].weight.double(), layers[0].bias.double()
        self._ink_rows = (weight.T / (255 * config.std)).float().contiguous()  # (784, 512)
        self._ink_bias = (bias - weight.sum(dim=1) * (config.mean / config.std)).float()
        self._one_bag = torch.zeros(1, dtype=torch.int64)
        self._weights: list[Tensor] = []  # of the stochastic layers, (inputs, outputs)
        self._biases: list[Tensor] = []
        for layer, rate in zip(layers[1:], config.dropout_rates, strict=True):
            padding = -layer.out_features % _OUTPUT_MULTIPLE
            # The output layer stays in float32: it is small, and its error would show undiminished.
            dtype = torch.float32 if layer is layers[-1] else self._dtype
            scaled = layer.weight.double().T / (1 - rate)
            self._weights.append(F.pad(scaled, (0, padding)).to(dtype).contiguous())
            self._biases.append(F.pad(layer.bias, (0, padding)).to(dtype))

    def predict_probs(self, pixels: Pixels) -> Probs:
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
            probs: Probs = h.softmax(dim=0).numpy()
            return probs

    def sample_probs(self, pixels: Pixels, passes: Passes) -> Probs:
        """Class probabilities of all passes, (T, C); see `prepare` and `sample`."""
        return self.sample(self.prepare(pixels, passes))

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedImage:
        """Computes what the passes share: layer 1, its part of layer 2, balanced masks.

        Args:
            pixels: ink 0 to 255, (28, 28).
            passes: which passes will be sampled.
        """
        with torch.inference_mode():
            h = self._first_layer(pixels).relu_()
            active = h.numpy().nonzero()[0]
            units = torch.from_numpy(active)
            folded = self._weights[0].index_select(0, units) * h.index_select(0, units)[:, None]
            if padding := -len(active) % self._unit_multiple:
                folded = F.pad(folded, (0, 0, 0, padding))
            folded = folded.to(self._dtype)
        return PreparedImage(passes, active, folded, self._draw_balanced(passes, active))

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

    def _draw_balanced(self, passes: Passes, active: NDArray[np.int64]) -> Keep | None:
        if passes.estimator != "balanced":
            return None
        later = np.arange(self._first_units, hidden_units(self.config))
        units = np.concatenate([active, later])
        return balanced_keep(self.config, passes.seed, passes.count, units)

    def sample(self, image: PreparedImage, start: int = 0, stop: int | None = None) -> Probs:
        """Class probabilities of consecutive passes.

        Args:
            image: from `prepare`.
            start: number of the first pass, from 0.
            stop: number after the last; all that the image is prepared for by default.

        Returns:
            float32, (stop - start, C); a pass has the same bits whatever `start` and `stop`.
        """
        stop = image.passes.count if stop is None else stop
        probs = np.empty((stop - start, self.config.layer_sizes[-1]), dtype=np.float32)
        done = 0
        with torch.inference_mode():
            for block in self._draw_blocks(image, start, stop):
                logits = self._block_logits(image, block)
                probs[done : done + block.size] = _softmax(logits[: block.size, : probs.shape[1]])
                done += block.size
        self.passes_computed += done
        return probs

    def _draw_blocks(self, image: PreparedImage, start: int, stop: int) -> Iterator[_Block]:
        """The masks of the passes, a block at a time."""
        for first in range(start, stop, BLOCK_PASSES):
            count = min(BLOCK_PASSES, stop - first)
            rows = max(count, _LEAST_ROWS) if self._rows_vary else BLOCK_PASSES
            rows += -rows % self._row_multiple
            if image.balanced is None:
                # The padding rows are further passes that nobody asked for.
                draws = random_bytes(image.passes.seed, first, rows, self._row_bytes)
                k = self._first_units
                first_keep = draws.take(image.active, axis=1) >= self._thresholds[0]
                later_keep = draws[:, k : len(self._thresholds)] >= self._thresholds[k:]
            else:
                keep = np.resize(
                    image.balanced[first : first + count], (rows, image.balanced.shape[1])
                )
                first_keep, later_keep = np.split(keep, [len(image.active)], axis=1)
            yield _Block(count, first_keep, later_keep)

    def _block_logits(self, image: PreparedImage, block: _Block) -> Probs:
        """Logits of one block, float32, (rows, C padded)."""
        rows, active = block.first.shape
        # Viewed as bytes: torch converts them to floats five times as fast as booleans.
        left = _view(self._buffers[0], rows, len(image.shared))
        left[:, :active].copy_(torch.from_numpy(block.first.view(np.uint8)))
        left[:, active:].zero_()
        keep = torch.from_numpy(block.later.view(np.uint8)).to(self._dtype)
        out = _view(self._buffers[1], rows, image.shared.shape[1])
        h = torch.addmm(self._biases[0], left, image.shared, out=out)
        begin = 0
        for index in range(1, len(self._weights)):
            weight, bias = self._weights[index], self._biases[index]
            units = len(weight)
            h = h[:, :units].relu_().mul_(keep[:, begin : begin + units])
            begin += units
            if weight.dtype != h.dtype:
                h = torch.addmm(bias, h.to(weight.dtype), weight)
            else:
                # The buffers take turns: the one that `h` is not in is free.
                out = _view(self._buffers[(index + 1) % 2], rows, len(bias))
                h = torch.addmm(bias, h, weight, out=out)
        logits: Probs = h.float().numpy()
        return logits

    def _rows_are_invariant(self) -> bool:
        """Whether a row of each product has the same bits for every number of rows in a block."""
        generator = torch.Generator().manual_seed(0)
        units = self._first_units
        living = sorted({1, units // 16, units // 7, units // 3, units} - {0})
        products = [(self._weights[0][:k], self._biases[0]) for k in living]
        products += list(zip(self._weights[1:], self._biases[1:], strict=True))
        step = self._row_multiple
        for weight, bias in products:
            left = torch.rand(BLOCK_PASSES, len(weight), generator=generator).to(weight.dtype)
            whole = torch.addmm(bias, left, weight)
            for rows in range(max(_LEAST_ROWS, step), BLOCK_PASSES, step):
                if not torch.equal(torch.addmm(bias, left[:rows], weight), whole[:rows]):
                    return False
        return True


class DeviceEngine(Engine):
    """The same answers from another device, or from a CPU without the tricks of `Engine`.

    Every product has the same number of rows, so that a pass has the same bits in every answer.
    """

    def __init__(
        self, network: MLP, device: torch.device, precision: Precision = "float32"
    ) -> None:
        config = network.config
        self.network = network
        self.config = config
        self.passes_computed = 0
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._first_units = config.hidden_sizes[0]
        self._device = device
        self._on_device = MLP(config).to(device)
        self._on_device.load_state_dict(network.state_dict())
        self._on_device.requires_grad_(False)
        layers = [layer for layer in self._on_device.layers if isinstance(layer, nn.Linear)]
        self._later_layers = layers[1:]

    def predict_probs(self, pixels: Pixels) -> Probs:
        """Deterministic class probabilities, dropout off; see `Engine.predict_probs`."""
        with torch.inference_mode():
            logits = self._on_device(normalise(pixels, self.config).to(self._device))
            probs: Probs = logits[0].softmax(dim=0).cpu().numpy()
            return probs

    def prepare(self, pixels: Pixels, passes: Passes) -> PreparedImage:
        """Computes layer 1; see `Engine.prepare`."""
        with torch.inference_mode():
            h = self._on_device.layers[0](normalise(pixels, self.config).to(self._device)).relu()
        active = np.arange(self._first_units)
        return PreparedImage(passes, active, h[0], self._draw_balanced(passes, active))

    def _draw_blocks(self, image: PreparedImage, start: int, stop: int) -> Iterator[_Block]:
        for first in range(start, stop, BLOCK_PASSES):
            count = min(BLOCK_PASSES, stop - first)
            if image.balanced is None:
                seed = image.passes.seed
                keep = independent_keep(self.config, seed, BLOCK_PASSES, first_pass=first)
            else:
                keep = image.balanced[first : first + count]
                keep = np.resize(keep, (BLOCK_PASSES, keep.shape[1]))
            yield _Block(count, *np.split(keep, [self._first_units], axis=1))

    def _block_logits(self, image: PreparedImage, block: _Block) -> Probs:
        keep = torch.from_numpy(np.concatenate([block.first, block.later], axis=1)).to(self._device)
        first_mask, *masks = torch.split(keep, self.config.hidden_sizes, dim=1)
        first_rate, *rates = self.config.dropout_rates
        *hidden, output = self._later_layers
        h = image.shared * first_mask / (1 - first_rate)  # (rows, units)
        for layer, mask, rate in zip(hidden, masks, rates, strict=True):
            weight, bias = layer.weight.to(self._dtype), layer.bias.to(self._dtype)
            h = F.linear(h.to(self._dtype), weight, bias).relu().float() * mask / (1 - rate)
        logits: Probs = output(h).cpu().numpy()
        return logits


def _view(buffer: Tensor, rows: int, columns: int) -> Tensor:
    return buffer[: rows * columns].view(rows, columns)


def _softmax(logits: Probs) -> Probs:
    """Softmax over the classes, (T, C), class by class so that each step is one long vector."""
    z = np.ascontiguousarray(logits.T)  # (C, T)
    z -= z.max(axis=0)
    np.exp(z, out=z)
    z /= z.sum(axis=0)
    return z.T
