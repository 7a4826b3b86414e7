"""The compiled kernels once more, in plain NumPy and as written down: both must give the same bits.

Slow and simple: one pass after the other, one layer after the other, one eight after the other.
"""

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Floats, Pixels
from model.network import MLP, fold_normalisation, normalise
from model.sampling.masks import DropoutSite, Passes, rates

LOG2_E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10


def exp(x: Array) -> Array:
    """exp of numbers up to 0, as `model.elementary` writes it down."""
    x = np.maximum(x, -700.0)
    k = np.trunc(x * LOG2_E - 0.5)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    y = r / 479001600.0
    for factorial in (39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0):
        y = (y + 1 / factorial) * r
    scaled: Array = np.ldexp(((y + 0.5) * r + 1.0) * r + 1.0, k.astype(int))
    return scaled


def log(x: Array) -> Array:
    """The natural logarithm of positive normal numbers, as `model.elementary` writes it down."""
    m, k = np.frexp(x)  # in [0.5, 1)
    is_small = 2 * m <= 1.4142135623730951
    m, k = np.where(is_small, 2 * m, m), np.where(is_small, k - 1, k)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    y = q / 21.0
    for odd in (19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        y = (y + 1 / odd) * q
    return k * LN2_HIGH + (k * LN2_LOW + 2.0 * (s + s * y))


def philox(seed: int, number: int, stream: int, words: int) -> NDArray[np.uint32]:
    """Philox4x32-10 in Python's integers (Salmon et al. 2011)."""
    mask, drawn = 0xFFFFFFFF, []
    for block in range(-(-words // 4)):
        x0, x1, x2, x3 = block, number, stream, 0
        k0, k1 = seed & mask, seed >> 32
        for _ in range(10):
            p0, p1 = 0xD2511F53 * x0, 0xCD9E8D57 * x2
            x0, x1, x2, x3 = (p1 >> 32) ^ x1 ^ k0, p1 & mask, (p0 >> 32) ^ x3 ^ k1, p0 & mask
            k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
        drawn += [x0, x1, x2, x3]
    return np.array(drawn[:words], np.uint32)


def draw_masks(sites: tuple[DropoutSite, ...], passes: Passes) -> NDArray[np.bool_]:
    """Masks of all passes, (T, units); True keeps the unit."""
    sizes = [site.units for site in sites]
    units, T = sum(sizes), passes.count
    k = np.repeat([round(rate * 256) for rate in rates(sites, passes.dropout)], sizes)
    if passes.estimator == "independent":
        drawn = [philox(passes.seed, t, 0, -(-units // 4)).astype("<u4") for t in range(T)]
        return np.array([words.view(np.uint8)[:units] >= k for words in drawn])
    v = philox(passes.seed, 0, 2, -(-units // 4)).astype("<u4").view(np.uint8)[:units].astype(int)
    left = np.maximum(-((v - k * T) // 256), 0)  # ceil(rate T - v)
    keep = []
    for t in range(T):
        choice = philox(passes.seed, t, 1, units).astype(np.uint64) * np.uint64(T - t)
        is_dropped = (choice >> np.uint64(32)).astype(int) < left
        left = left - is_dropped
        keep.append(~is_dropped)
    return np.array(keep)


def add_in_eights(bias: Floats, terms: Floats) -> Floats:
    """Adds terms (n, columns) to the bias."""
    total = bias.copy()
    terms = np.concatenate([terms, np.zeros((-len(terms) % 8, len(bias)), np.float32)])
    for a, b, c, d, e, f, g, h in terms.reshape(-1, 8, len(bias)):
        total += ((a + b) + (c + d)) + ((e + f) + (g + h))
    return total


def products(values: Floats, weight: Floats) -> Floats:
    """Each value times its column of the weight (outputs, values): (values, outputs)."""
    return np.ascontiguousarray(weight.T) * values[:, None]


def activate(network: MLP, hidden: Floats) -> Floats:
    return np.maximum(hidden, 0) if network.config.activation == "relu" else hidden


def layer(values: Floats, weight: Floats, bias: Floats) -> Floats:
    """A layer of its inputs that are not 0."""
    present = values.nonzero()[0]
    return add_in_eights(bias, products(values[present], weight[:, present]))


def softmax(logits: Floats) -> Floats:
    z = logits.astype(np.float64)
    exponentials, total = exp(z - z.max()), 0.0
    for each in exponentials.tolist():
        total += each
    probs: Floats = (exponentials / total).astype(np.float32)
    return probs


def predict_logits(network: MLP, pixels: Pixels) -> Floats:
    """Deterministic logits, (C,)."""
    first, *later = fold_normalisation(network)
    h = layer(pixels.reshape(-1).astype(np.float32), *first)
    for each in later:
        h = layer(activate(network, h), *each)
    return h


def sample_probs(network: MLP, pixels: Pixels, passes: Passes) -> Floats:
    """The class probabilities of all passes, (T, C)."""
    sites = network.config.dropout_sites
    keep = np.split(draw_masks(sites, passes), np.cumsum([s.units for s in sites])[:-1], axis=1)
    scales = [np.float32(1 / (1 - rate)) for rate in rates(sites, passes.dropout)]
    if sites[0].is_input:
        stochastic, shared = network.layers, normalise(pixels, network.config)[0]
    else:
        first, *rest = fold_normalisation(network)
        stochastic = tuple(rest)
        shared = activate(network, layer(pixels.reshape(-1).astype(np.float32), *first))
    probs = []
    for t in range(passes.count):
        # The units that are active in every pass keep their places among the eights.
        active = shared.nonzero()[0]
        values = np.where(keep[0][t, active], shared[active] * scales[0], np.float32(0))
        weight, bias = stochastic[0]
        h = add_in_eights(bias, products(values, weight[:, active]))
        for site in range(1, len(sites)):
            kept = np.where(keep[site][t], activate(network, h) * scales[site], np.float32(0))
            h = layer(kept, *stochastic[site])
        probs.append(softmax(h))
    return np.array(probs)


def summarise(probs: Floats) -> list[Array]:
    """Mean, variance, predictive and expected entropy, one pass after the other."""
    p = probs.astype(np.float64)
    total, squares, entropies = np.zeros(p.shape[1]), np.zeros(p.shape[1]), 0.0
    for row in p:
        total += row
        entropies += entropy(row)
    mean = total / len(p)
    for row in p:
        squares += (row - mean) * (row - mean)
    return [mean, squares / max(len(p) - 1, 1), np.array([entropy(mean), entropies / len(p)])]


def entropy(p: Array) -> float:
    total = 0.0
    for each in p[p > 0]:
        total -= float(each * log(np.array(each)))
    return max(total, 0.0)
