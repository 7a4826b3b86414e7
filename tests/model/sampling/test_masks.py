"""Dropout masks: what a seed promises, and that the drops have the rates they should have."""

import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from model.arrays import KeepMasks
from model.literals import MAX_SEED, Estimator
from model.network import MLPConfig
from model.sampling.masks import DropoutSite, Passes, draw_masks, thresholds
from tests.model.engines import reference
from tests.model.engines.networks import draw_by_site
from tests.model.engines.reference import philox

# Three different rates: layers that took each other's would show.
SITES = MLPConfig(dropout_rates=(77 / 256, 13 / 256, 205 / 256)).dropout_sites


def same(some: list[KeepMasks], others: list[KeepMasks]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def test_the_same_seed_gives_the_same_masks() -> None:
    assert same(draw_by_site(SITES, 7, 20), draw_by_site(SITES, 7, 20))


def test_masks_are_boolean_and_one_per_layer_pass_and_unit() -> None:
    masks = draw_by_site(SITES, 0, 5)
    assert [tuple(mask.shape) for mask in masks] == [(5, 512), (5, 256), (5, 128)]
    assert {mask.dtype for mask in masks} == {np.dtype(np.bool_)}


def test_the_first_50_of_100_passes_are_those_of_a_50_pass_answer() -> None:
    hundred = draw_by_site(SITES, 3, 100)
    assert same([mask[:50] for mask in hundred], draw_by_site(SITES, 3, 50))


@pytest.mark.parametrize("first_pass", [1, 17, 64])
def test_a_draw_from_a_later_pass_is_the_rest_of_the_whole_draw(first_pass: int) -> None:
    whole = draw_by_site(SITES, 3, first_pass + 9)
    rest = draw_by_site(SITES, 3, 9, first_pass=first_pass)
    assert same([mask[first_pass:] for mask in whole], rest)


def test_passes_that_are_one_draw_apart_are_not_the_same() -> None:
    for mask in draw_by_site(SITES, 3, 50):
        assert len({row.tobytes() for row in mask}) == 50


@pytest.mark.parametrize("other", [1, 2**32, MAX_SEED])
def test_another_seed_gives_other_masks(other: int) -> None:
    for some, others in zip(draw_by_site(SITES, 0, 8), draw_by_site(SITES, other, 8), strict=True):
        assert not np.array_equal(some, others)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_layer_drops_units_at_rate_77_of_256(layer: int) -> None:
    sites = MLPConfig(dropout_rates=(77 / 256, 77 / 256, 77 / 256)).dropout_sites
    dropped = ~draw_by_site(sites, 11, 1000)[layer]
    assert_frequency(dropped, 77 / 256)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_layer_has_its_own_rate(layer: int) -> None:
    dropped = ~draw_by_site(SITES, 12, 1000)[layer]
    assert_frequency(dropped, SITES[layer].rate)


def assert_frequency(events: KeepMasks, rate: float) -> None:
    standard_error = math.sqrt(rate * (1 - rate) / events.size)
    assert abs(float(events.mean()) - rate) < 5 * standard_error


def test_every_unit_is_dropped_at_the_same_rate_and_apart_from_its_neighbour() -> None:
    rate, passes = 77 / 256, 4000
    sites = MLPConfig(dropout_rates=(rate, rate, rate)).dropout_sites
    for mask in draw_by_site(sites, 13, passes):
        dropped = (~mask).astype(float)
        per_unit = math.sqrt(rate * (1 - rate) / passes)
        # The largest of 512 normal deviations is about 3.1 and hardly ever above 5.
        assert float(np.abs(dropped.mean(axis=0) - rate).max()) < 5.5 * per_unit
        both = float((dropped[:, 1:] * dropped[:, :-1]).mean())
        # Var(xy) = p^2 (1 - p^2), and each pair shares a unit with two others: Cov = p^3 (1 - p).
        variance = rate**2 * (1 - rate**2) + 2 * rate**3 * (1 - rate)
        pairs = passes * (mask.shape[1] - 1)
        assert abs(both - rate**2) < 5 * math.sqrt(variance / pairs)


def test_passes_cannot_be_changed_and_are_equal_if_their_values_are() -> None:
    assert {Passes(50, 1), Passes(50, 1), Passes(50, 2)} == {Passes(50, 2), Passes(50, 1)}
    with pytest.raises(FrozenInstanceError):
        Passes(50, 1).seed = 2  # type: ignore[misc]


def test_rate_0_drops_nothing() -> None:
    sites = MLPConfig(dropout_rates=(0.0, 0.0, 0.0)).dropout_sites
    assert all(bool(mask.all()) for mask in draw_by_site(sites, 0, 100))


def test_the_smallest_and_the_largest_rate_are_exact() -> None:
    sites = MLPConfig(dropout_rates=(1 / 256, 255 / 256, 0.0)).dropout_sites
    assert thresholds(sites).tolist() == [1] * 512 + [255] * 256 + [0] * 128
    rare, frequent, never = draw_by_site(sites, 5, 2000)
    assert_frequency(~rare, 1 / 256)
    assert_frequency(~frequent, 255 / 256)
    assert bool(never.all())


def test_a_byte_at_the_threshold_keeps_its_unit() -> None:
    """Bytes 0 to 76 are 77 of 256: with byte 77 dropped too, the rate would be 78/256."""
    keep = draw_masks([DropoutSite(2000, 77 / 256)], Passes(1, 9))[0]
    drawn = philox(9, 0, 0, 500).astype("<u4").view(np.uint8)
    assert keep[drawn == 77].all()
    assert not keep[drawn == 76].any()


def test_layers_of_the_same_rate_do_not_share_their_masks() -> None:
    sites = MLPConfig(dropout_rates=(77 / 256, 77 / 256, 77 / 256)).dropout_sites
    layers = [mask[:, :128] for mask in draw_by_site(sites, 6, 20)]
    for some, others in itertools.combinations(layers, 2):
        # Independent masks agree where both keep or both drop.
        rate = 77 / 256
        assert_frequency(some == others, rate**2 + (1 - rate) ** 2)


@pytest.mark.parametrize("hidden", [1, 31, 33, 100])
def test_layers_that_fill_no_whole_block_keep_the_promise_of_later_passes(hidden: int) -> None:
    sites = MLPConfig(layer_sizes=(784, hidden, 10), dropout_rates=(77 / 256,)).dropout_sites
    whole = draw_by_site(sites, 3, 12)
    assert same([mask[5:] for mask in whole], draw_by_site(sites, 3, 7, first_pass=5))


def test_torchs_and_numpys_global_generators_are_not_moved() -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)
    draw_by_site(SITES, 0, 50)
    after = torch.get_rng_state(), np.random.get_state(legacy=False)
    assert np.array_equal(before[0], after[0])
    assert repr(before[1]) == repr(after[1])


def test_global_seeds_change_no_mask() -> None:
    expected = draw_by_site(SITES, 21, 10)
    with torch.random.fork_rng():
        torch.manual_seed(123)
        assert same(draw_by_site(SITES, 21, 10), expected)


def test_the_masks_of_seed_0_are_pinned() -> None:
    """Answers that clients repeat by their seed depend on these masks: they must never change.

    The first 64 units of each hidden layer of the default network, in its second pass.
    """
    for estimator, wanted in PINNED.items():
        masks = draw_by_site(MLPConfig().dropout_sites, 0, 2, estimator=estimator)
        assert [np.packbits(mask[1, :64]).tobytes().hex() for mask in masks] == wanted


PINNED: dict[Estimator, list[str]] = {
    "independent": ["fdfeb7dfeff5fd67", "d77bf9ffeffdd6ff", "f6ffb9bfcefffdf7"],
    "balanced": ["e7abfeffffdbdf77", "f3f7bbff579e3ef7", "feffe17fafbfbd3f"],
}


def test_the_oracle_knows_the_published_test_vectors() -> None:
    """Random123's kat_vectors: philox4x32, 10 rounds, of counter and key 0."""
    assert philox(0, 0, 0, 4).tolist() == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


SOME_SITES = (DropoutSite(33, 77 / 256), DropoutSite(64, 0.0), DropoutSite(5, 255 / 256))


@pytest.mark.parametrize("estimator", ["independent", "balanced"])
@pytest.mark.parametrize("seed", [0, 12345, 2**32 + 1, MAX_SEED])
def test_masks_are_those_of_the_written_order(seed: int, estimator: Estimator) -> None:
    passes = Passes(40, seed, estimator)
    assert (draw_masks(SOME_SITES, passes) == reference.draw_masks(SOME_SITES, passes)).all()


def test_a_rate_that_a_request_gives_replaces_all_but_the_inputs() -> None:
    sites = (DropoutSite(100, 26 / 256, is_input=True), DropoutSite(100, 77 / 256))
    assert thresholds(sites, 0.5).tolist() == [26] * 100 + [128] * 100
    as_declared = (sites[0], DropoutSite(100, 128 / 256))
    replaced = draw_masks(sites, Passes(30, 3, dropout=0.5))
    assert (replaced == draw_masks(as_declared, Passes(30, 3))).all()
