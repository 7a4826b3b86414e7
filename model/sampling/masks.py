"""Dropout masks from counter-based random bits: a seed and a pass number determine every unit.

The generator is Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
Its key is the seed, lower word first; its counter is (block of units, number of the pass, stream,
0), and each counter gives four words of 32 bits, written down in little-endian order. A mask
therefore depends neither on the batch, nor on the order of requests, nor on the machine that draws
it, and the first 50 of 100 independent passes are those of a 50-pass answer.

- Independent masks are stream 0. Unit u has byte u mod 16 of block u div 16: a byte below k drops
  it, which has rate k / 256 exactly.
- Balanced masks are streams 1 and 2; see `draw_balanced`.

Units are counted through all dropout sites, one site after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.arrays import KeepMasks
from model.compiling import compiled
from model.literals import Estimator
from model.sampling.sites import RATE_STEPS as RATE_STEPS
from model.sampling.sites import DropoutSite as DropoutSite
from model.sampling.sites import round_rate as round_rate

Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

_INDEPENDENT, _BALANCED, _OFFSETS = 0, 1, 2
_BLOCK_WORDS = 4
_BLOCK_BYTES = 16
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@dataclass(frozen=True)
class Passes:
    """Identifies stochastic passes: with the image they determine every bit of the answer.

    Attributes:
        count: T, the number of passes.
        seed: 0 to `MAX_SEED`.
        estimator: "independent" or "balanced"; see `draw_balanced`.
        dropout: replaces the rate of all sites but the input, a multiple of 1/256; None keeps them.
    """

    count: int
    seed: int
    estimator: Estimator = "independent"
    dropout: float | None = None


def rates(sites: Sequence[DropoutSite], dropout: float | None = None) -> list[float]:
    """Returns the rate of each site; see `Passes.dropout`."""
    return [
        site.rate if dropout is None or site.is_input else round_rate(dropout) for site in sites
    ]


@lru_cache(maxsize=32)
def thresholds(sites: tuple[DropoutSite, ...], dropout: float | None = None) -> Bytes:
    """Returns k for each unit of all sites: a byte below k drops it, (units,)."""
    per_site = [round(rate * RATE_STEPS) for rate in rates(sites, dropout)]
    return np.repeat(np.array(per_site, np.uint8), [site.units for site in sites])


def draw_masks(
    sites: Sequence[DropoutSite], passes: Passes, start: int = 0, stop: int | None = None
) -> KeepMasks:
    """Draws the masks of passes `start` to `stop`, by default of all.

    Returns:
        (stop - start, units), site after site; True keeps the unit.
    """
    stop = passes.count if stop is None else stop
    limits = thresholds(tuple(sites), passes.dropout)
    if passes.estimator == "balanced":
        keep = np.empty((passes.count, len(limits)), np.uint8)
        draw_balanced(passes.seed, limits, keep)
        return keep[start:stop].view(np.bool_)
    keep = np.empty((stop - start, len(limits)), np.uint8)
    draw_independent(passes.seed, start, limits, keep)
    return keep.view(np.bool_)


def split_by_site(keep: KeepMasks, sites: Sequence[DropoutSite]) -> list[KeepMasks]:
    """Splits masks (T, units) into those of each site."""
    ends = np.cumsum([site.units for site in sites])
    return np.split(keep, ends[:-1], axis=1)


def dropped_units(sites: Sequence[DropoutSite], passes: Passes) -> Bytes:
    """Returns the units that each pass drops, as bits.

    Returns:
        uint8, (T, ceil(units / 8)), site after site, the first unit in the highest bit; a bit of 1
        is a dropped unit.
    """
    return np.packbits(~draw_masks(sites, passes), axis=1)


@compiled("void(int64, int64, uint8[::1], uint8[:, ::1])")
def draw_independent(seed: int, start: int, thresholds: Bytes, keep: Bytes) -> None:
    """Draws independent masks of passes from number `start` on: 1 keeps a unit, 0 drops it.

    Args:
        seed: 0 to `MAX_SEED`.
        start: number of the first pass.
        thresholds: see `thresholds`.
        keep: receives the masks, (passes, units).
    """
    units = len(thresholds)
    words = np.empty(-(-units // _BLOCK_BYTES) * _BLOCK_WORDS, np.uint32)
    drawn = words.view(np.uint8)
    for t in range(len(keep)):
        random_words(seed, start + t, _INDEPENDENT, words)
        row = keep[t]
        for unit in range(units):
            row[unit] = drawn[unit] >= thresholds[unit]


@compiled("void(int64, uint8[::1], uint8[:, ::1])")
def draw_balanced(seed: int, thresholds: Bytes, keep: Bytes) -> None:
    """Draws balanced masks: a unit's drops are spread over the T passes like a systematic sample.

    In each single pass a unit is dropped with exactly its rate, but over all passes it is dropped
    floor or ceil of rate x T times, which passes being a random choice. This negative correlation
    between passes makes the error of their mean smaller. The masks depend on T.

    The number of a unit's drops is the number of ranks j with (j + v) / T < rate, where v is a
    multiple of 1/256 like the rate, which makes the expected number exactly rate x T. The passes
    are chosen one by one: with d drops left for r passes, this one is dropped with probability
    d / r (Knuth, "The Art of Computer Programming", section 3.4.2, algorithm S).

    v is byte u mod 16 of block u div 16 of stream 2, pass 0. Each pass's choice is word u mod 4 of
    block u div 4 of stream 1.

    Args:
        seed: 0 to `MAX_SEED`.
        thresholds: see `thresholds`.
        keep: receives the masks, (T, units): 1 keeps a unit, 0 drops it.

    References:
        Cochran 1977, "Sampling Techniques", chapter 8, for systematic sampling.
    """
    passes, units = keep.shape
    words = np.empty(-(-units // _BLOCK_BYTES) * _BLOCK_WORDS, np.uint32)
    random_words(seed, 0, _OFFSETS, words)
    offsets = words.view(np.uint8)
    left = np.empty(units, np.uint64)  # drops
    for unit in range(units):
        steps = thresholds[unit] * passes - offsets[unit]
        left[unit] = max(-(-steps // RATE_STEPS), 0)
    choices = np.empty(-(-units // _BLOCK_WORDS) * _BLOCK_WORDS, np.uint32)
    for t in range(passes):
        random_words(seed, t, _BALANCED, choices)
        row, remaining = keep[t], np.uint64(passes - t)
        for unit in range(units):
            is_dropped = (choices[unit] * remaining) >> _HALF < left[unit]
            left[unit] -= np.uint64(is_dropped)
            row[unit] = not is_dropped


@compiled()
def random_words(seed: int, number: int, stream: int, words: Words) -> None:
    """Fills `words`, a multiple of 4, with the numbers of consecutive blocks of Philox4x32-10."""
    for block in range(len(words) // _BLOCK_WORDS):
        x0, x1, x2, x3 = np.uint64(block), np.uint64(number), np.uint64(stream), np.uint64(0)
        k0, k1 = np.uint64(seed) & _LOW, np.uint64(seed) >> _HALF
        for _ in range(_ROUNDS):
            p0, p1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
            x0, x1 = (p1 >> _HALF) ^ x1 ^ k0, p1 & _LOW
            x2, x3 = (p0 >> _HALF) ^ x3 ^ k1, p0 & _LOW
            k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
        words[4 * block] = x0
        words[4 * block + 1] = x1
        words[4 * block + 2] = x2
        words[4 * block + 3] = x3
