"""The compiled loops of MC dropout: each pass is computed alone, in an order that is written down.

Every weighted sum adds its terms in eights, ((a + b) + (c + d)) + ((e + f) + (g + h)), one eight
after the other to the bias; the last is filled up with zeros. A pass therefore has the same bits in
any company, on any processor: as IEEE 754 demands, nothing is reordered, and nothing is fused.

Arguments: `keep` are masks, (passes, units of all dropout sites), 1 for a kept unit; `units` and
`values` are the active units and their values, in whole eights.
"""

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Floats, Integers
from model.compiling import compiled
from model.elementary import exp
from model.sampling.masks import RATE_STEPS, Bytes, draw_balanced, draw_independent

# One layer: inputs, outputs, columns of a tile, where its bias begins in `weights`, the number of
# its first input among the units of all dropout sites, and whether its inputs are rectified before.
# The bias is followed by one tile of the weights after the other, (inputs, columns): its rows stay
# in the cache while the passes use them.
Layer = Integers
# Weights and biases of all layers in one array, the layers (L, 6), and for each unit of all dropout
# sites k of its rate k / 256.
Network = tuple[Floats, Integers, Bytes]
_NETWORK = "Tuple((float32[::1], int64[:, ::1], uint8[::1]))"
Indices = NDArray[np.int32]

# Passes whose masks are drawn, and whose layers are computed, before the next ones.
CHUNK = 64
_EIGHT = 8
# Fours of units in a table of their sums: with 256 columns it takes 256 kB.
_TABLE_FOURS = 16


@compiled(f"void(float32[::1], {_NETWORK}, int64, int64, uint8[:, ::1], float32[:, ::1])")
def sample_passes(
    inputs: Floats, network: Network, seed: int, start: int, balanced: Bytes, probs: Floats
) -> None:
    """Computes the class probabilities of consecutive passes from number `start` on, (passes, C).

    `network` has the stochastic layers; the units below each are a dropout site. `inputs` are of
    the first, before the activation: all passes share them. `balanced` are masks of all passes from
    number 0; empty for independent ones, drawn from `seed`.
    """
    weights, layers, thresholds = network
    units, values = active_units(inputs, scale_of(thresholds, layers[0]), layers[0])
    drawn = np.empty((CHUNK, len(thresholds)), np.uint8)
    below = np.empty((CHUNK, layers[:, 1].max()), np.float32)
    above = np.empty_like(below)
    exponentials = np.empty(layers[-1, 1])
    for begin in range(0, len(probs), CHUNK):
        end = min(begin + CHUNK, len(probs))
        if len(balanced):
            keep = balanced[start + begin : start + end]
        else:
            keep = drawn[: end - begin]
            draw_independent(seed, start + begin, thresholds, keep)
        first_layer(units, values, keep, weights, layers[0], above)
        for layer in layers[1:]:
            below, above = above, below
            later_layer(below, scale_of(thresholds, layer), keep, weights, layer, above)
        softmax_rows(above, exponentials, probs[begin:end])


@compiled(f"void(float32[:, ::1], {_NETWORK}, int64, int64[::1], boolean, float32[:, :, ::1])")
def sample_images(
    x: Floats, network: Network, shared: int, seeds: Integers, is_balanced: bool, probs: Floats
) -> None:
    """Computes all passes of images, (B, inputs), each with its seed, into `probs`, (B, T, C).

    `network` has all layers, of which the first `shared` have no dropout.
    """
    weights, layers, thresholds = network
    stochastic = weights, layers[shared:], thresholds
    balanced = np.empty((probs.shape[1] if is_balanced else 0, len(thresholds)), np.uint8)
    hidden = np.empty(layers[shared, 0], np.float32)
    for i in range(len(x)):
        forward(x[i], weights, layers[:shared], hidden)
        if is_balanced:
            draw_balanced(seeds[i], thresholds, balanced)
        sample_passes(hidden, stochastic, seeds[i], 0, balanced, probs[i])


@compiled("void(float32[::1], float32[::1], int64[:, ::1], float32[::1])")
def forward(below: Floats, weights: Floats, layers: Integers, out: Floats) -> None:
    """Computes layers without dropout; `out` receives the last before its activation."""
    for layer in layers:
        units, values = active_units(below, np.float32(1), layer)
        above = np.empty(layer[1], np.float32)
        for tile in range(layer[1] // layer[2]):
            bias, weight, columns = _tile(weights, layer, tile)
            _weigh(units, values, bias, weight, above[columns])
        below = above
    out[:] = below[: len(out)]


@compiled()
def first_layer(
    units: Indices, values: Floats, keep: Bytes, weights: Floats, layer: Layer, out: Floats
) -> None:
    """Computes the first stochastic layer, before its activation, of passes that share its inputs.

    A pass adds, for each four units, one of the 16 sums that four masks can give. A table has them:
    making it takes as long as several passes, and spares each three of four additions. Four rows
    of it are added at a time, since more often loading and storing the sums would take longer.
    """
    table = np.empty((_TABLE_FOURS, 16, layer[2]), np.float32)
    for tile in range(layer[1] // layer[2]):
        bias, weight, columns = _tile(weights, layer, tile)
        for t in range(len(keep)):
            row = out[t, columns]
            for j in range(len(row)):  # six times as fast as to assign it to all rows
                row[j] = bias[j]
        for begin in range(0, len(units) // 4, _TABLE_FOURS):
            fours = min(len(units) // 4 - begin, _TABLE_FOURS)
            for four in range(fours):
                _tabulate(units, values, 4 * (begin + four), weight, table[four])
            for t in range(len(keep)):
                kept, row = keep[t], out[t, columns]
                for four in range(0, fours - 3, 4):
                    q = 4 * (begin + four)
                    a = table[four, _choice(kept, units, q)]
                    b = table[four + 1, _choice(kept, units, q + 4)]
                    c = table[four + 2, _choice(kept, units, q + 8)]
                    d = table[four + 3, _choice(kept, units, q + 12)]
                    for j in range(len(row)):
                        row[j] = (row[j] + (a[j] + b[j])) + (c[j] + d[j])
                if fours % 4:
                    q = 4 * (begin + fours - 2)
                    a = table[fours - 2, _choice(kept, units, q)]
                    b = table[fours - 1, _choice(kept, units, q + 4)]
                    for j in range(len(row)):
                        row[j] += a[j] + b[j]


@compiled()
def _choice(kept: Bytes, units: Indices, q: int) -> int:
    """The masks of four units, the first in the lowest bit."""
    low = kept[units[q]] | kept[units[q + 1]] << 1
    return int(low | kept[units[q + 2]] << 2 | kept[units[q + 3]] << 3)


@compiled()
def _tabulate(units: Indices, values: Floats, q: int, weight: Floats, sums: Floats) -> None:
    """Computes (a + b) + (c + d) of four terms, 0 in place of those not chosen, (16, columns)."""
    sums[0] = 0
    for bit in range(4):
        value, row, product = values[q + bit], weight[units[q + bit]], sums[1 << bit]
        for j in range(len(row)):
            product[j] = value * row[j]
    _add(sums[1], sums[2], sums[3])
    _add(sums[4], sums[8], sums[12])
    for upper in (4, 8, 12):
        for lower in (1, 2, 3):
            _add(sums[lower], sums[upper], sums[lower + upper])


@compiled()
def _add(a: Floats, b: Floats, out: Floats) -> None:
    for j in range(len(out)):
        out[j] = a[j] + b[j]


@compiled()
def later_layer(
    below: Floats, scale: np.float32, keep: Bytes, weights: Floats, layer: Layer, out: Floats
) -> None:
    """Computes a later stochastic layer from the one below, both before their activation."""
    inputs, first = layer[0], layer[4]
    units = np.empty((len(keep), inputs + _EIGHT), np.int32)
    values = np.empty((len(keep), inputs + _EIGHT), np.float32)
    counts = np.empty(len(keep), np.int64)
    for t in range(len(keep)):
        kept = keep[t, first : first + inputs]
        counts[t] = _kept(below[t, :inputs], kept, scale, layer, units[t], values[t])
    for tile in range(layer[1] // layer[2]):
        bias, weight, columns = _tile(weights, layer, tile)
        for t in range(len(keep)):
            count = counts[t]
            _weigh(units[t, :count], values[t, :count], bias, weight, out[t, columns])


@compiled()
def scale_of(thresholds: Bytes, layer: Layer) -> np.float32:
    """1 / (1 - rate) of the dropout site below a layer: kept units keep their expectation."""
    return np.float32(RATE_STEPS / (RATE_STEPS - thresholds[layer[4]]))


@compiled()
def active_units(inputs: Floats, scale: np.float32, layer: Layer) -> tuple[Indices, Floats]:
    """The inputs of a layer that are not 0, and their scaled values, in whole eights."""
    units = np.empty(len(inputs) + _EIGHT, np.int32)
    values = np.empty(len(units), np.float32)
    count = _kept(inputs, np.ones(len(inputs), np.uint8), scale, layer, units, values)
    return units[:count], values[:count]


@compiled()
def _kept(
    hidden: Floats, keep: Bytes, scale: np.float32, layer: Layer, units: Indices, values: Floats
) -> int:
    """Finds the kept units that are not 0; returns their number, filled up to whole eights."""
    flags, count = values.view(np.uint8), 0  # where there is room, until the values are known
    is_relu = layer[5]
    for unit in range(len(hidden)):
        is_active = hidden[unit] > 0 if is_relu else hidden[unit] != 0
        flags[unit] = is_active & keep[unit]
    for unit in range(len(hidden)):  # without a branch, which the processor could not predict
        units[count] = unit
        count += flags[unit]
    for i in range(count):
        values[i] = hidden[units[i]] * scale
    whole = -(-count // _EIGHT) * _EIGHT
    for i in range(count, whole):
        units[i] = 0
        values[i] = 0
    return whole


@compiled()
def _weigh(units: Indices, values: Floats, bias: Floats, rows: Floats, out: Floats) -> None:
    """Computes the bias plus the sum of each value times the unit's row of weights, in eights."""
    for j in range(len(out)):
        out[j] = bias[j]
    for q in range(0, len(units), _EIGHT):
        v0, v1, v2, v3 = values[q], values[q + 1], values[q + 2], values[q + 3]
        v4, v5, v6, v7 = values[q + 4], values[q + 5], values[q + 6], values[q + 7]
        w0, w1 = rows[units[q]], rows[units[q + 1]]
        w2, w3 = rows[units[q + 2]], rows[units[q + 3]]
        w4, w5 = rows[units[q + 4]], rows[units[q + 5]]
        w6, w7 = rows[units[q + 6]], rows[units[q + 7]]
        for j in range(len(out)):
            low = (v0 * w0[j] + v1 * w1[j]) + (v2 * w2[j] + v3 * w3[j])
            out[j] += low + ((v4 * w4[j] + v5 * w5[j]) + (v6 * w6[j] + v7 * w7[j]))


@compiled()
def _tile(weights: Floats, layer: Layer, tile: int) -> tuple[Floats, Floats, slice]:
    """The bias and the weights (inputs, columns) of a tile, and which columns these are."""
    inputs, outputs, width, begin = layer[0], layer[1], layer[2], layer[3]
    bias = weights[begin + tile * width : begin + (tile + 1) * width]
    first, size = begin + outputs, inputs * width
    weight = weights[first + tile * size : first + (tile + 1) * size].reshape(inputs, width)
    return bias, weight, slice(tile * width, (tile + 1) * width)


@compiled("void(float32[:, ::1], float64[::1], float32[:, ::1])")
def softmax_rows(logits: Floats, exponentials: Array, probs: Floats) -> None:
    """Computes the softmax of the first C logits of each pass; `exponentials` is scratch space."""
    classes = probs.shape[1]
    for t in range(len(probs)):
        largest = np.float64(logits[t, :classes].max())
        for c in range(len(exponentials)):
            exponentials[c] = exp(np.float64(logits[t, c]) - largest)
        total = exponentials[:classes].sum()
        for c in range(classes):
            probs[t, c] = exponentials[c] / total
