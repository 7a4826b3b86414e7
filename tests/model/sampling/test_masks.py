"""Dropout masks: what a seed promises, and that the drops have the rates they should have."""

import itertools
import math

import numpy as np
import pytest
import torch

from model.arrays import KeepMasks
from model.literals import MAX_SEED
from model.network import MLPConfig
from model.sampling.masks import draw_masks, drop_thresholds, random_bytes, row_bytes

# Three different rates: layers that took each other's would show.
SITES = MLPConfig(dropout_rates=(77 / 256, 13 / 256, 205 / 256)).dropout_sites


def same(some: list[KeepMasks], others: list[KeepMasks]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def philox(key: int, counter: int) -> bytes:
    """One block of Philox4x64-10, from the paper and in plain integers (Salmon et al. 2011)."""
    word = 2**64 - 1
    x0, x1, x2, x3 = ((counter >> shift) & word for shift in (0, 64, 128, 192))
    k0, k1 = key & word, key >> 64
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = (
            (right >> 64) ^ x1 ^ k0,
            right & word,
            (left >> 64) ^ x3 ^ k1,
            left & word,
        )
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & word, (k1 + 0xBB67AE8584CAA73B) & word
    return b"".join(x.to_bytes(8, "little") for x in (x0, x1, x2, x3))


def test_the_same_seed_gives_the_same_masks() -> None:
    assert same(draw_masks(SITES, 7, 20), draw_masks(SITES, 7, 20))


def test_masks_are_boolean_and_one_per_layer_pass_and_unit() -> None:
    masks = draw_masks(SITES, 0, 5)
    assert [tuple(mask.shape) for mask in masks] == [(5, 512), (5, 256), (5, 128)]
    assert {mask.dtype for mask in masks} == {np.dtype(np.bool_)}


def test_the_first_50_of_100_passes_are_those_of_a_50_pass_answer() -> None:
    hundred = draw_masks(SITES, 3, 100)
    assert same([mask[:50] for mask in hundred], draw_masks(SITES, 3, 50))


@pytest.mark.parametrize("first_pass", [1, 17, 64])
def test_a_draw_from_a_later_pass_is_the_rest_of_the_whole_draw(first_pass: int) -> None:
    whole = draw_masks(SITES, 3, first_pass + 9)
    rest = draw_masks(SITES, 3, 9, first_pass=first_pass)
    assert same([mask[first_pass:] for mask in whole], rest)


def test_passes_that_are_one_draw_apart_are_not_the_same() -> None:
    for mask in draw_masks(SITES, 3, 50):
        assert len({row.tobytes() for row in mask}) == 50


@pytest.mark.parametrize("other", [1, 2**32, MAX_SEED])
def test_another_seed_gives_other_masks(other: int) -> None:
    for some, others in zip(draw_masks(SITES, 0, 8), draw_masks(SITES, other, 8), strict=True):
        assert not np.array_equal(some, others)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_layer_drops_units_at_rate_77_of_256(layer: int) -> None:
    sites = MLPConfig(dropout_rates=(77 / 256, 77 / 256, 77 / 256)).dropout_sites
    dropped = ~draw_masks(sites, 11, 1000)[layer]
    assert_frequency(dropped, 77 / 256)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_layer_has_its_own_rate(layer: int) -> None:
    dropped = ~draw_masks(SITES, 12, 1000)[layer]
    assert_frequency(dropped, SITES[layer].rate)


def assert_frequency(events: KeepMasks, rate: float) -> None:
    standard_error = math.sqrt(rate * (1 - rate) / events.size)
    assert abs(float(events.mean()) - rate) < 5 * standard_error


def test_every_unit_is_dropped_at_the_same_rate_and_apart_from_its_neighbour() -> None:
    rate, passes = 77 / 256, 4000
    sites = MLPConfig(dropout_rates=(rate, rate, rate)).dropout_sites
    for mask in draw_masks(sites, 13, passes):
        dropped = (~mask).astype(float)
        per_unit = math.sqrt(rate * (1 - rate) / passes)
        # The largest of 512 normal deviations is about 3.1 and hardly ever above 5.
        assert float(np.abs(dropped.mean(axis=0) - rate).max()) < 5.5 * per_unit
        both = float((dropped[:, 1:] * dropped[:, :-1]).mean())
        # Var(xy) = p^2 (1 - p^2), and each pair shares a unit with two others: Cov = p^3 (1 - p).
        variance = rate**2 * (1 - rate**2) + 2 * rate**3 * (1 - rate)
        pairs = passes * (mask.shape[1] - 1)
        assert abs(both - rate**2) < 5 * math.sqrt(variance / pairs)


def test_rate_0_drops_nothing() -> None:
    sites = MLPConfig(dropout_rates=(0.0, 0.0, 0.0)).dropout_sites
    assert all(bool(mask.all()) for mask in draw_masks(sites, 0, 100))


def test_the_smallest_and_the_largest_rate_are_exact() -> None:
    sites = MLPConfig(dropout_rates=(1 / 256, 255 / 256, 0.0)).dropout_sites
    assert drop_thresholds(sites).tolist() == [1] * 512 + [255] * 256 + [0] * 128
    rare, frequent, never = draw_masks(sites, 5, 2000)
    assert_frequency(~rare, 1 / 256)
    assert_frequency(~frequent, 255 / 256)
    assert bool(never.all())


def test_a_byte_at_the_threshold_keeps_its_unit() -> None:
    """Bytes 0 to 76 are 77 of 256: with byte 77 dropped too, the rate would be 78/256."""
    draws = random_bytes(9, 0, 40, row_bytes(SITES))
    first_layer = draw_masks(SITES, 9, 40)[0]
    bytes_of_layer = draws[:, :512]
    assert first_layer[bytes_of_layer == 77].all()
    assert not first_layer[bytes_of_layer == 76].any()


def test_layers_of_the_same_rate_do_not_share_their_masks() -> None:
    sites = MLPConfig(dropout_rates=(77 / 256, 77 / 256, 77 / 256)).dropout_sites
    layers = [mask[:, :128] for mask in draw_masks(sites, 6, 20)]
    for some, others in itertools.combinations(layers, 2):
        # Independent masks agree where both keep or both drop.
        rate = 77 / 256
        assert_frequency(some == others, rate**2 + (1 - rate) ** 2)


@pytest.mark.parametrize("hidden", [1, 31, 33, 100])
def test_layers_that_fill_no_whole_block_keep_the_promise_of_later_passes(hidden: int) -> None:
    sites = MLPConfig(layer_sizes=(784, hidden, 10), dropout_rates=(77 / 256,)).dropout_sites
    whole = draw_masks(sites, 3, 12)
    assert same([mask[5:] for mask in whole], draw_masks(sites, 3, 7, first_pass=5))


def test_torchs_and_numpys_global_generators_are_not_moved() -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)
    draw_masks(SITES, 0, 50)
    after = torch.get_rng_state(), np.random.get_state(legacy=False)
    assert np.array_equal(before[0], after[0])
    assert repr(before[1]) == repr(after[1])


def test_global_seeds_change_no_mask() -> None:
    expected = draw_masks(SITES, 21, 10)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert same(draw_masks(SITES, 21, 10), expected)


def test_the_bytes_of_seed_0_are_pinned() -> None:
    """Answers that clients repeat by their seed depend on these bytes: they must never change."""
    first_block = "9bd8e40864baf402b2c5a89c0b2bd63d792e905da567861cdcb4d52f057a7d90"
    assert random_bytes(0, 0, 1, 32).tobytes().hex() == first_block


def test_the_masks_of_seed_0_are_pinned() -> None:
    """The first 64 units of each hidden layer of the default network, in its second pass."""
    second_pass = [mask[1, :64] for mask in draw_masks(MLPConfig().dropout_sites, 0, 2)]
    assert [np.packbits(kept).tobytes().hex() for kept in second_pass] == [
        "fddefffffdfeffdf",
        "3ff6feceefbffd3f",
        "bfffcdff37fdff96",
    ]


def test_the_oracle_knows_the_published_test_vector() -> None:
    """Random123's kat_vectors: philox4x64, 10 rounds, key and counter 0."""
    words = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
    assert philox(0, 0) == b"".join(word.to_bytes(8, "little") for word in words)


@pytest.mark.parametrize(("seed", "number"), [(0, 0), (0, 3), (12345, 0), (MAX_SEED, 99)])
def test_the_bytes_are_those_of_an_independent_philox(seed: int, number: int) -> None:
    blocks = 3
    # NumPy counts up before it draws: its first block is that of counter 1.
    expected = b"".join(philox(seed, number * blocks + 1 + block) for block in range(blocks))
    assert random_bytes(seed, number, 1, blocks * 32).tobytes() == expected
