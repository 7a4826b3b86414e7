"""Dropout masks from counter-based random bytes: a seed and a pass number determine every unit.

Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") is keyed by the seed and
counted by the pass, so a mask depends neither on the batch, nor on the order of requests, nor on the
worker that draws it, and the first 50 of 100 passes are those of a 50-pass answer. No global
generator is read or moved.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.mlp import RATE_STEPS, MLPConfig

MAX_SEED = 2**53 - 1  # the largest integer that JavaScript can repeat

_BLOCK_BYTES = 32  # what one step of Philox's counter yields: four 64-bit words


class Layout(NamedTuple):
    """Where the bytes of each hidden layer lie in a pass's row of random bytes."""

    slices: tuple[slice, ...]
    row_bytes: int  # a whole number of Philox blocks, so that a pass starts at a counter value


def byte_layout(config: MLPConfig) -> Layout:
    """One byte per hidden unit, layer after layer, padded to whole Philox blocks."""
    slices = []
    start = 0
    for units in config.hidden_sizes:
        slices.append(slice(start, start + units))
        start += units
    return Layout(tuple(slices), -(-start // _BLOCK_BYTES) * _BLOCK_BYTES)


def drop_thresholds(config: MLPConfig) -> tuple[int, ...]:
    """Per hidden layer, the k for which a byte below k drops its unit: rate k / 256, exactly."""
    return tuple(round(rate * RATE_STEPS) for rate in config.dropout_rates)


def random_bytes(seed: int, first_pass: int, passes: int, row_bytes: int) -> NDArray[np.uint8]:
    """Uniform random bytes of consecutive passes.

    Args:
        seed: 0 to `MAX_SEED`.
        first_pass: number of the first pass, from 0.
        passes: T, how many passes.
        row_bytes: bytes a pass; a multiple of 32.

    Returns:
        Bytes, (T, row_bytes); row t depends on the seed, `first_pass + t` and `row_bytes` only.
    """
    blocks = row_bytes // _BLOCK_BYTES
    generator = np.random.Philox(key=seed, counter=first_pass * blocks)
    words = generator.random_raw(passes * row_bytes // 8)
    if sys.byteorder == "big":
        words = words.byteswap()
    return words.view(np.uint8).reshape(passes, row_bytes)


def draw_masks(config: MLPConfig, seed: int, passes: int, *, first_pass: int = 0) -> list[Tensor]:
    """Independent keep-masks: in every pass each unit is dropped with its layer's rate.

    Args:
        config: the network the masks are for.
        seed: 0 to `MAX_SEED`.
        passes: T, how many passes.
        first_pass: number of the first pass, from 0.

    Returns:
        One mask per hidden layer, bool, (T, units); True keeps the unit.
    """
    layout = byte_layout(config)
    draws = random_bytes(seed, first_pass, passes, layout.row_bytes)
    return [
        torch.from_numpy(draws[:, columns] >= threshold)
        for columns, threshold in zip(layout.slices, drop_thresholds(config), strict=True)
    ]
