"""The engine: MC-dropout passes, as fast as one CPU core allows.

What makes it fast:

1. Layer 1 is the same in every pass and sees mostly black: it is one weighted sum over the rows of
   the inked pixels, with the normalisation folded into weights and bias.
2. After its ReLU few units of layer 1 are alive, about one in five on digits. A silent unit is
   silent in every pass, so layer 2 multiplies the living ones only.
3. The scaling of kept units is folded into the next layer's weights: a mask costs one product with
   0 or 1, made from raw random bytes by one comparison.
4. The passes of a block, of one image or of several, are one matrix product per layer, and a
   block's activations stay in the L2 cache.
5. Everything is NumPy, the bias is one more row of the weights, and buffers are reused: at this
   size a call costs as much as its arithmetic.

Several images share the products of layer 3 and after, and must not feel it: an answer may depend
neither on what else is asked at the same time, nor may a pass depend on how many passes are asked
for. That holds where the matrix library gives a row the same bits whatever its place and whatever
the number of rows (from sixteen on; fewer may take another path), which `_rows_are_invariant` finds
out once, of NumPy's library and then of torch's. Where it holds of neither, images share nothing,
every product gets the same number of rows, and a pass the same row.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from model.digits.preprocessing import Pixels, normalise
from model.errors import CheckpointError, ModelError
from model.literals import Precision
from model.network import MLP, MLPConfig
from model.sampling.masks import (
    Passes,
    balanced_keep,
    drop_thresholds,
    hidden_units,
    independent_keep,
    random_bytes,
    row_bytes,
)
from model.uncertainty.distribution import softmax

PRECISIONS: tuple[str, ...] = get_args(Precision)
Probs = NDArray[np.float32]
Keep = NDArray[np.bool_]
# Writes left times weight into out, all float32: (rows, K), (K, N), (rows, N).
Product = Callable[[Probs, Probs, Probs], object]

# Rows of a product, each a pass of some image: 256 rows of the widest activation, 256 kB, lie well
# within an L2 cache together with the weights.
BLOCK_ROWS = 256
# Matrix libraries compute few rows by a path of their own, with other low bits.
_LEAST_ROWS = 16
# Where another path begins depends on the rows, and on how many units are alive.
_SOME_ROWS = [*range(_LEAST_ROWS, 64), *range(64, BLOCK_ROWS, 16)]
# Layers are padded to whole vectors, since the last bits of other widths depend on the rows too.
_UNIT_MULTIPLE = 16
# bfloat16 products are compiled per shape, in half a millisecond: few shapes must do.
_BFLOAT16_ROWS = 16
_BFLOAT16_UNITS = 32


class PrecisionError(ModelError):
    """The processor cannot compute in the precision asked for."""


class DeviceError(ModelError):
    """The device asked for is not there."""


class PassRange(NamedTuple):
    """Consecutive passes of an image: from number `start` up to, without it, `stop`."""

    image: "PreparedImage"
    start: int
    stop: int


class _Piece(NamedTuple):
    """The passes of one image in a block."""

    image: "PreparedImage"
    answer: int  # which of the answers they belong to
    first: int  # number of the pass in the first row
    skip: int  # rows before the first pass that is asked for
    size: int  # how many passes are asked for
    rows: int  # all rows, those of padding at the end included


class PreparedImage(NamedTuple):
    """What all passes of an image share.

    Attributes:
        passes: which passes it is prepared for.
        active: the units of layer 1 that are not silent, int64, (K,).
        first: layer 1 of these units, after its ReLU, (K,).
        balanced: the masks of balanced passes, (T, K + later hidden units); None: drawn pass by
            pass.
    """

    passes: Passes
    active: NDArray[np.int64]
    first: Probs
    balanced: Keep | None


class Engine:
    """Answers from one network on one CPU thread.

    `sample` reuses buffers and belongs to one thread at a time; the rest may be called from any.

    Args:
        network: the network; it is not changed.
        precision: of the hidden stochastic layers; bfloat16 carries 8 significant bits.

    Raises:
        PrecisionError: the processor has no bfloat16 products.
        CheckpointError: the network has other activations than ReLU.
    """

    def __init__(self, network: MLP, precision: Precision = "float32") -> None:
        if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise PrecisionError("this processor has no bfloat16 products; use float32")
        config = network.config
        _require_relu(config)
        self.network = network
        self.config = config
        self.passes_computed = 0
        # For the whole process, and for good: a second thread is woken for each product, and on a
        # busy machine every product then waits for it.
        threadpool_limits(1, user_api="blas")
        self._first_units = config.hidden_sizes[0]
        self._row_bytes = row_bytes(config)
        # Repeated for each row of a block, since one long comparison takes a third of many short.
        thresholds = np.zeros((BLOCK_ROWS, self._row_bytes), np.uint8)
        thresholds[:, : hidden_units(config)] = drop_thresholds(config)
        self._thresholds = thresholds
        with torch.inference_mode():
            self._fold_weights()
        self._choose_products(precision)
        # Of layer 2: what is multiplied with what, for the passes of one image.
        self._left = np.empty(BLOCK_ROWS * len(self._weights[0]), np.float32)
        self._living = np.empty_like(self._weights[0])
        # Of the hidden layers from the second on: each with a column of ones, for the next bias.
        self._hidden = [
            np.ones((BLOCK_ROWS, len(weight)), np.float32) for weight in self._weights[1:]
        ]
        self._zeros = [np.zeros_like(h) for h in self._hidden]
        self._keep = [np.ones_like(h, np.bool_) for h in self._hidden]

    def _fold_weights(self) -> None:
        config = self.config
        layers = [layer for layer in self.network.layers if isinstance(layer, nn.Linear)]
        # Without dropout, layers 1 and 2 read only the rows of what is not silent: a fifth of the
        # weights, which then stay in the L2 cache beside whatever else is served. The later layers
        # are so small that choosing rows costs more than multiplying all.
        self._plain_layers = [
            (layer.weight.T.contiguous().numpy(), layer.bias.numpy()) for layer in layers[1:]
        ]
        # W ((p / 255 - mean) / std) + b  =  (W / (255 std)) p + (b - mean / std W 1)
        weight, bias = layers[0].weight.double(), layers[0].bias.double()
        ink_rows = weight.T / (255 * config.std)  # (784, 512)
        self._ink_rows: Probs = ink_rows.float().contiguous().numpy()
        ink_bias = bias - weight.sum(dim=1) * (config.mean / config.std)
        self._ink_bias: Probs = ink_bias.float().numpy()
        # Of the stochastic layers, (inputs + 1, outputs), padded; the last row is the bias.
        self._weights: list[Probs] = []
        for layer, rate in zip(layers[1:], config.dropout_rates, strict=True):
            above = -layer.in_features % _UNIT_MULTIPLE if self._weights else 0
            beside = -layer.out_features % _UNIT_MULTIPLE
            scaled = F.pad(layer.weight.double().T / (1 - rate), (0, beside, 0, above))
            bias = F.pad(layer.bias.double(), (0, beside))
            self._weights.append(torch.cat([scaled, bias[None]]).float().numpy())

    def _choose_products(self, precision: Precision) -> None:
        self._row_multiple = _BFLOAT16_ROWS if precision == "bfloat16" else 1
        candidates: tuple[Product, ...] = np.matmul, _torch_product
        for exact in candidates:
            inner = _bfloat16_product if precision == "bfloat16" else exact
            # The output layer stays in float32: it is small, and its error would show undiminished.
            self._products: list[Product] = [inner] * (len(self._weights) - 1) + [exact]
            self._rows_vary = self._rows_are_invariant()
            if self._rows_vary:
                return

    def predict_probs(self, pixels: Pixels) -> Probs:
        """Deterministic class probabilities, dropout off.

        Args:
            pixels: ink 0 to 255, (28, 28).

        Returns:
            float32, (C,).
        """
        return np.array(softmax(self.predict_logits(pixels)), np.float32)

    def predict_logits(self, pixels: Pixels) -> list[float]:
        """What `predict_probs` is the softmax of, C numbers."""
        h = self._first_layer(pixels)
        (weight, bias), *later = self._plain_layers
        h = _sparse_product(np.maximum(h, 0, out=h), weight)
        h += bias
        for weight, bias in later:
            h = np.maximum(h, 0, out=h) @ weight
            h += bias
        logits: list[float] = h.tolist()
        return logits

    def sample_probs(self, pixels: Pixels, passes: Passes) -> Probs:
        """Class probabilities of all passes of one image, (T, C); see `sample`."""
        (image,) = self.prepare([pixels], [passes])
        return self.sample([PassRange(image, 0, passes.count)])[0]

    def prepare(self, pixels: Sequence[Pixels], passes: Sequence[Passes]) -> list[PreparedImage]:
        """Computes what an image's passes share: layer 1 and balanced masks.

        Args:
            pixels: images, each ink 0 to 255, (28, 28).
            passes: which passes will be sampled, per image.
        """
        return [self._prepare_one(*each) for each in zip(pixels, passes, strict=True)]

    def _prepare_one(self, pixels: Pixels, passes: Passes) -> PreparedImage:
        h = self._first_layer(pixels)
        active = (h > 0).nonzero()[0]
        return PreparedImage(passes, active, h[active], self._draw_balanced(passes, active))

    def _first_layer(self, pixels: Pixels) -> Probs:
        """Layer 1 before its ReLU, (512,): the weighted sum of the inked pixels' weights."""
        h = _sparse_product(pixels.reshape(-1), self._ink_rows)
        h += self._ink_bias
        return h

    def _draw_balanced(self, passes: Passes, active: NDArray[np.int64]) -> Keep | None:
        if passes.estimator != "balanced":
            return None
        later = np.arange(self._first_units, hidden_units(self.config))
        units = np.concatenate([active, later])
        return balanced_keep(self.config, passes.seed, passes.count, units)

    def sample(self, ranges: Sequence[PassRange]) -> list[Probs]:
        """Class probabilities of passes of any number of images.

        Returns:
            Per range float32, (stop - start, C). A pass has the same bits whatever else is asked
            for, of the same image and of others.
        """
        classes = self.config.layer_sizes[-1]
        answers = [np.empty((asked.stop - asked.start, classes), np.float32) for asked in ranges]
        for block in self._blocks(ranges):
            probs = _softmax(self._block_logits(block)[:, :classes])
            row = 0
            for piece in block:
                begin = row + piece.skip
                done = piece.first + piece.skip - ranges[piece.answer].start
                answers[piece.answer][done : done + piece.size] = probs[begin : begin + piece.size]
                row += piece.rows
                self.passes_computed += piece.size
        return answers

    def _blocks(self, ranges: Sequence[PassRange]) -> Iterator[list[_Piece]]:
        """Packs the passes into blocks of at most `BLOCK_ROWS` rows."""
        if not self._rows_vary:
            yield from self._fixed_blocks(ranges)
            return
        block: list[_Piece] = []
        free = BLOCK_ROWS
        for answer, (image, start, stop) in enumerate(ranges):
            while start < stop:
                size = min(stop - start, free)
                rows = max(size, _LEAST_ROWS)
                rows += -rows % self._row_multiple
                if rows > free:  # the padding does not fit
                    yield block
                    block, free = [], BLOCK_ROWS
                    continue
                block.append(_Piece(image, answer, start, 0, size, rows))
                start += size
                free -= rows
                if free == 0:
                    yield block
                    block, free = [], BLOCK_ROWS
        if block:
            yield block

    def _fixed_blocks(self, ranges: Sequence[PassRange]) -> Iterator[list[_Piece]]:
        """Blocks of one image and one size, in which a pass always has the same row."""
        for answer, (image, start, stop) in enumerate(ranges):
            for first in range(start - start % BLOCK_ROWS, stop, BLOCK_ROWS):
                skip = max(start - first, 0)
                size = min(stop - first, BLOCK_ROWS) - skip
                yield [_Piece(image, answer, first, skip, size, BLOCK_ROWS)]

    def _block_logits(self, block: Sequence[_Piece]) -> Probs:
        """Logits of one block, float32, (rows, C padded)."""
        rows = sum(piece.rows for piece in block)
        logits = np.empty((rows, self._weights[-1].shape[1]), np.float32)
        hidden = [h[:rows] for h in self._hidden]
        keep = [mask[:rows] for mask in self._keep]
        drawn = [mask[:, :n] for mask, n in zip(keep, self.config.hidden_sizes[1:], strict=True)]
        outputs = [*(h[:, :-1] for h in hidden), logits]  # without the ones for the biases
        row = 0
        for piece in block:
            below = row + piece.rows
            self._second_layer(piece, outputs[0][row:below], [mask[row:below] for mask in drawn])
            row = below
        for index, h in enumerate(hidden):
            # Whole buffers, the ones included: row by row, or with the number 0 for the zeros,
            # NumPy takes two to four times as long.
            np.maximum(h, self._zeros[index][:rows], out=h)
            np.multiply(h, keep[index], out=h)
            self._products[index + 1](h, self._weights[index + 1], outputs[index + 1])
        return logits

    def _second_layer(self, piece: _Piece, out: Probs, later: Sequence[Keep]) -> None:
        """Layer 2 before its ReLU, into `out`, and the masks from layer 2 on, into `later`.

        Args:
            piece: whose passes.
            out: (rows, units of layer 2).
            later: of each hidden layer but the first, (rows, its units).
        """
        image, rows, k = piece.image, len(out), len(piece.image.active)
        if image.balanced is None:
            # The rows of padding are further passes that nobody asked for.
            draws = random_bytes(image.passes.seed, piece.first, rows, self._row_bytes)
            keep = draws.view(np.bool_)
            np.greater_equal(draws, self._thresholds[:rows], out=keep)
            first, begin = keep.take(image.active, axis=1), self._first_units
        else:
            keep = image.balanced[piece.first : piece.first + rows]
            keep = np.resize(keep, (rows, keep.shape[1]))
            first, begin = keep[:, :k], k
        for mask in later:
            mask[:] = keep[:, begin : (begin := begin + mask.shape[1])]
        left = self._left[: rows * (k + 1)].reshape(rows, k + 1)
        np.multiply(first, image.first, out=left[:, :k])
        left[:, k] = 1
        # The weights are gathered for each block anew: they are then still in the cache.
        living = self._living[: k + 1]
        # The indices are right; "clip" is the mode that writes without a copy.
        np.take(self._weights[0], image.active, axis=0, out=living[:k], mode="clip")
        living[k] = self._weights[0][-1]
        self._products[0](left, living, out)

    def _rows_are_invariant(self) -> bool:
        """Whether a row of each product has the same bits among however many, and wherever."""
        generator = np.random.default_rng(0)
        units = self._first_units
        living = [*range(1, units, 32), units]
        products = [(self._products[0], self._weights[0][-1 - k :]) for k in living]
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


class DeviceEngine(Engine):
    """The same answers from another device, or from a CPU without the tricks of `Engine`.

    Every product has the same number of rows, so that a pass has the same bits in every answer.

    Args:
        network: the network; a copy of it goes to the device.
        device: what computes.
        precision: of the hidden stochastic layers.
    """

    def __init__(
        self, network: MLP, device: torch.device, precision: Precision = "float32"
    ) -> None:
        config = network.config
        _require_relu(config)
        self.network = network
        self.config = config
        self.passes_computed = 0
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self._row_multiple = 1
        self._rows_vary = False
        self._first_units = config.hidden_sizes[0]
        self._device = device
        on_device = copy.deepcopy(network).to(device)
        self._layers = [layer for layer in on_device.layers if isinstance(layer, nn.Linear)]

    def predict_logits(self, pixels: Pixels) -> list[float]:
        """Deterministic logits, dropout off; see `Engine.predict_logits`."""
        with torch.inference_mode():
            h = normalise(pixels, self.config).to(self._device)
            for layer in self._layers[:-1]:
                h = F.linear(h, layer.weight, layer.bias).relu()
            logits: list[float] = self._layers[-1](h)[0].tolist()
            return logits

    def prepare(self, pixels: Sequence[Pixels], passes: Sequence[Passes]) -> list[PreparedImage]:
        """Computes layer 1, image by image; see `Engine.prepare`."""
        active = np.arange(self._first_units)
        prepared = []
        with torch.inference_mode():
            for image, which in zip(pixels, passes, strict=True):
                h = self._layers[0](normalise(image, self.config).to(self._device)).relu()[0]
                balanced = self._draw_balanced(which, active)
                prepared.append(PreparedImage(which, active, h.cpu().numpy(), balanced))
        return prepared

    def _block_logits(self, block: Sequence[_Piece]) -> Probs:
        (piece,) = block  # a block holds one image's passes where rows do not vary
        image, passes = piece.image, piece.image.passes
        if image.balanced is None:
            keep = independent_keep(self.config, passes.seed, BLOCK_ROWS, first_pass=piece.first)
        else:
            keep = image.balanced[piece.first : piece.first + BLOCK_ROWS]
            keep = np.resize(keep, (BLOCK_ROWS, keep.shape[1]))
        first_rate, *rates = self.config.dropout_rates
        *hidden, output = self._layers[1:]
        with torch.inference_mode():
            on_device = torch.from_numpy(keep).to(self._device)
            first_mask, *masks = torch.split(on_device, list(self.config.hidden_sizes), dim=1)
            first = torch.from_numpy(image.first).to(self._device)
            h = first * first_mask / (1 - first_rate)  # (rows, units)
            for layer, mask, rate in zip(hidden, masks, rates, strict=True):
                weight, bias = layer.weight.to(self._dtype), layer.bias.to(self._dtype)
                h = F.linear(h.to(self._dtype), weight, bias).relu().float() * mask / (1 - rate)
            logits: Probs = output(h).cpu().numpy()
        return logits


def build_engine(network: MLP, device: str = "cpu", precision: Precision = "float32") -> Engine:
    """The engine for a device.

    Args:
        network: the network.
        device: as torch names it: cpu, cuda, cuda:1.
        precision: of the hidden stochastic layers.

    Raises:
        PrecisionError: the processor cannot compute in that precision.
        DeviceError: there is no such device.
    """
    if device == "cpu":
        return Engine(network, precision)
    try:
        wanted = torch.device(device)
        torch.empty(1, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(
            "there is no such device here; cuda needs a GPU and a CUDA build of torch"
        ) from error
    return DeviceEngine(network, wanted, precision)


def _require_relu(config: MLPConfig) -> None:
    if config.activation != "relu":
        raise CheckpointError(
            f"the network's hidden units are {config.activation}, and only ReLU networks can be "
            "served or evaluated"
        )


def _sparse_product(values: Pixels | Probs, weight: Probs) -> Probs:
    """The product (K,) times (K, outputs), from the rows where a value is not zero only.

    In NumPy: at this size torch's own call costs more than the product.
    """
    present = values.nonzero()[0]
    product: Probs = values[present].astype(np.float32, copy=False) @ weight.take(present, axis=0)
    return product


def _torch_product(left: Probs, weight: Probs, out: Probs) -> None:
    torch.mm(torch.from_numpy(left), torch.from_numpy(weight), out=torch.from_numpy(out))


def _bfloat16_product(left: Probs, weight: Probs, out: Probs) -> None:
    padding = -len(weight) % _BFLOAT16_UNITS
    narrow_left = F.pad(torch.from_numpy(left).bfloat16(), (0, padding))
    narrow_weight = F.pad(torch.from_numpy(weight).bfloat16(), (0, 0, 0, padding))
    out[:] = (narrow_left @ narrow_weight).float().numpy()


def _softmax(logits: Probs) -> Probs:
    """Softmax over the classes, (T, C), class by class so that each step is one long vector."""
    z = np.ascontiguousarray(logits.T)  # (C, T)
    z -= z.max(axis=0)
    np.exp(z, out=z)
    z /= z.sum(axis=0)
    return z.T
