"""Dropout masks from counter-based random bytes: a seed and a pass number determine every unit.

The key of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is the seed,
and its counter follows from the number of the pass. A mask therefore depends neither on the batch,
nor on the order of requests, nor on the worker that draws it, and the first 50 of 100 independent
passes are those of a 50-pass answer. Global generators are neither read nor advanced.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Integers, KeepMasks
from model.literals import Estimator

# A dropout rate is a multiple of 1/256, so that one random byte decides one unit exactly.
RATE_STEPS = 256
MAX_BALANCED_PASSES = 2**16  # the number of a pass takes half of a 32-bit sorting key

# One step of Philox's counter gives four 64-bit words; their size in bytes and in 16-bit words.
_BLOCK_BYTES = 32
_BLOCK_WORDS = 16
_WORDS_16_IN_64 = 4
# Philox's key has 128 bits: a seed takes the lower half, and the upper half selects a stream.
_BALANCED_STREAM = 1 << 64
_WORD = (1 << 64) - 1
# Each unit has a header before its sorting keys: its offset, and the pass from which equal keys are
# ranked.
_HEADER_WORDS = 4


class DropoutSite(NamedTuple):
    """A place in a network where masks act: the units of one hidden layer.

    Attributes:
        units: number of units, which masks drop or keep one by one.
        rate: the probability of dropping a unit, in [0, 1), a multiple of 1/256.
    """

    units: int
    rate: float


@dataclass(frozen=True)
class Passes:
    """Identifies stochastic passes: with the image they determine every bit of the answer.

    Attributes:
        count: T, the number of passes.
        seed: 0 to `MAX_SEED`.
        estimator: "independent" or "balanced"; see `independent_keep` and `balanced_keep`.
    """

    count: int
    seed: int
    estimator: Estimator = "independent"


def hidden_units(sites: Sequence[DropoutSite]) -> int:
    """Counts the units of all sites."""
    return sum(site.units for site in sites)


def row_bytes(sites: Sequence[DropoutSite]) -> int:
    """Counts the random bytes of a pass: one per unit, padded to whole Philox blocks."""
    return -(-hidden_units(sites) // _BLOCK_BYTES) * _BLOCK_BYTES


def drop_thresholds(sites: Sequence[DropoutSite]) -> NDArray[np.uint8]:
    """Returns k for each unit: a byte below k drops it, which has rate k / 256 exactly."""
    per_site = [round(site.rate * RATE_STEPS) for site in sites]
    return np.repeat(np.array(per_site, dtype=np.uint8), [site.units for site in sites])


def random_bytes(seed: int, first_pass: int, passes: int, row_bytes: int) -> NDArray[np.uint8]:
    """Draws the uniform random bytes of consecutive passes.

    Args:
        seed: 0 to `MAX_SEED`.
        first_pass: number of the first pass, from 0.
        passes: T, the number of passes.
        row_bytes: bytes per pass, a multiple of 32.

    Returns:
        uint8, (T, row_bytes). Row t depends on the seed, `first_pass + t` and `row_bytes` only.
    """
    first_block = first_pass * (row_bytes // _BLOCK_BYTES)
    words = _random_words(seed, passes * row_bytes // 2, counter=first_block)
    return words.view(np.uint8).reshape(passes, row_bytes)


def independent_keep(
    sites: Sequence[DropoutSite], seed: int, passes: int, *, first_pass: int = 0
) -> KeepMasks:
    """Draws independent masks: each unit is dropped or kept in each pass independently.

    Args:
        sites: the network's sites, in order.
        seed: 0 to `MAX_SEED`.
        passes: T, the number of passes.
        first_pass: number of the first pass, from 0.

    Returns:
        (T, units), site after site; True keeps the unit.
    """
    draws = random_bytes(seed, first_pass, passes, row_bytes(sites))
    keep: KeepMasks = draws[:, : hidden_units(sites)] >= drop_thresholds(sites)
    return keep


def balanced_keep(
    sites: Sequence[DropoutSite], seed: int, passes: int, units: Integers | None = None
) -> KeepMasks:
    """Draws balanced masks: systematic sampling of the passes that drop a unit.

    Each unit has a random permutation pi of the T passes and an offset v in [0, 1). It is dropped
    in pass t if (pi_t + v) / T < rate. In each single pass the unit is dropped with exactly this
    rate, but over all passes it is dropped floor or ceil of rate x T times. This negative
    correlation between passes makes the error of their mean smaller. The masks depend on T.

    The permutation ranks 16-bit keys. Equal keys are ranked in the order of the passes, starting
    from a random pass, so that no pass is favoured. The offset is a multiple of 1/256 like the
    rate, which makes the expected number of drops exactly rate x T.

    Args:
        sites: the network's sites, in order.
        seed: 0 to `MAX_SEED`.
        passes: T, at most `MAX_BALANCED_PASSES`.
        units: indices of units, counted through all sites; all units by default.

    Returns:
        (T, units); True keeps the unit.

    References:
        Cochran 1977, "Sampling Techniques", chapter 8, for systematic sampling.
    """
    unit_words = -(-(_HEADER_WORDS + passes) // _BLOCK_WORDS) * _BLOCK_WORDS
    draws = _random_words(seed | _BALANCED_STREAM, hidden_units(sites) * unit_words, counter=0)
    words = draws.view(np.uint16).reshape(-1, unit_words)  # (units, words)
    thresholds = drop_thresholds(sites).astype(np.int64)
    if units is not None:
        words, thresholds = words[units], thresholds[units]
    offset = (words[:, 0] & 0xFF).astype(np.int64)  # v = offset / 256
    # The number of ranks j with (j + v) / T < rate, which is 256 j < 256 rate T - offset.
    drops = np.maximum(-((offset - thresholds * passes) // 256), 0)
    first = (words[:, 1].astype(np.uint32) << 16 | words[:, 2]) % np.uint32(passes)
    order = (np.arange(passes, dtype=np.uint32) + first[:, None]) % np.uint32(passes)
    keys = words[:, _HEADER_WORDS : _HEADER_WORDS + passes].astype(np.uint32) << 16 | order
    ranked = np.sort(keys, axis=1)
    # The largest key that is dropped; without drops there is no such key.
    last = np.take_along_axis(ranked, np.maximum(drops - 1, 0)[:, None], axis=1)
    keep = (keys > last) | (drops == 0)[:, None]  # (units, T)
    return np.ascontiguousarray(keep.T)


def draw_masks(
    sites: Sequence[DropoutSite],
    seed: int,
    passes: int,
    *,
    first_pass: int = 0,
    estimator: Estimator = "independent",
) -> list[KeepMasks]:
    """Draws masks site by site.

    Args:
        sites: the network's sites, in order.
        seed: 0 to `MAX_SEED`.
        passes: T, the number of passes.
        first_pass: number of the first pass, from 0; balanced masks always start at 0.
        estimator: see `Passes`.

    Returns:
        One mask per site, (T, units); True keeps the unit.
    """
    if estimator == "balanced":
        keep = balanced_keep(sites, seed, passes)
    else:
        keep = independent_keep(sites, seed, passes, first_pass=first_pass)
    ends = np.cumsum([site.units for site in sites])
    return [np.ascontiguousarray(part) for part in np.split(keep, ends[:-1], axis=1)]


def dropped_units(sites: Sequence[DropoutSite], passes: Passes) -> NDArray[np.uint8]:
    """Returns the units that each pass drops, as bits.

    Returns:
        uint8, (T, ceil(units / 8)), site after site, the first unit in the highest bit; a
        bit of 1 is a dropped unit.
    """
    if passes.estimator == "balanced":
        keep = balanced_keep(sites, passes.seed, passes.count)
    else:
        keep = independent_keep(sites, passes.seed, passes.count)
    return np.packbits(~keep, axis=1)


class _Generator(threading.local):
    """One Philox generator per thread: setting its state takes a tenth of the time of a new one."""

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.state = self.philox.state  # without buffered numbers of an earlier draw


_generator = _Generator()


def _random_words(key: int, words: int, counter: int) -> NDArray[np.uint64]:
    """Draws `words` 16-bit words, a multiple of 4, in little-endian 64-bit integers."""
    philox, state = _generator.philox, _generator.state
    numbers = state["state"]
    numbers["key"][:] = key & _WORD, key >> 64
    numbers["counter"][:] = counter, 0, 0, 0
    philox.state = state
    drawn: NDArray[np.uint64] = philox.random_raw(words // _WORDS_16_IN_64)
    return drawn.byteswap() if sys.byteorder == "big" else drawn
