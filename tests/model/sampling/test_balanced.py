"""The balanced masks: exact in every pass, no bias, and a mean with half the squared error."""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from model.arrays import Array, KeepMasks, Pixels
from model.checkpoint import Checkpoint
from model.engines import build_engine
from model.engines.protocol import Engine, sample_probs
from model.literals import Estimator
from model.sampling.masks import (
    DropoutSite,
    Passes,
    draw_masks,
    dropped_units,
)
from tests.model.engines.networks import mean, variance
from tests.samples.draw import DIGITS, draw_strokes, preprocess_image

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = 2000
UNITS = 60
# A rate that no T makes whole, and the one half that every even T does.
RATES = (51 / 256, 128 / 256)
CASES = [(passes, rate) for passes in (2, 3, 16, 50) for rate in RATES]


def make_sites(*rates: float) -> list[DropoutSite]:
    """60 hidden units, in as many layers as there are rates."""
    return [DropoutSite(UNITS // len(rates), rate) for rate in rates]


def balanced_keep(sites: Sequence[DropoutSite], seed: int, passes: int) -> KeepMasks:
    return draw_masks(sites, Passes(passes, seed, "balanced"))


@cache
def draw_dropped(passes: int, rate: float) -> Array:
    """1 where a unit is dropped, else 0, (seeds, T, units)."""
    sites = make_sites(rate, rate)
    draws = [~balanced_keep(sites, seed, passes) for seed in range(SEEDS)]
    return np.array(draws, dtype=np.float64)


# The masks themselves


@pytest.mark.parametrize(("passes", "rate"), CASES)
def test_each_pass_drops_each_unit_at_the_rate(passes: int, rate: float) -> None:
    dropped = draw_dropped(passes, rate)
    one_draw = math.sqrt(rate * (1 - rate))
    of_each = dropped.mean(axis=0)  # (T, units)
    assert np.abs(of_each - rate).max() < 5 * one_draw / math.sqrt(SEEDS)
    of_each_pass = dropped.mean(axis=(0, 2))
    assert np.abs(of_each_pass - rate).max() < 5 * one_draw / math.sqrt(SEEDS * UNITS)


@pytest.mark.parametrize(("passes", "rate"), CASES)
def test_a_unit_is_dropped_floor_or_ceil_of_the_rate_times_the_passes(
    passes: int, rate: float
) -> None:
    drops = draw_dropped(passes, rate).sum(axis=1)  # (seeds, units)
    wanted = rate * passes
    assert set(np.unique(drops)) == {math.floor(wanted), math.ceil(wanted)}
    # The one or the other at random, so that their mean is the rate times the passes: exactly so
    # where that is whole.
    fraction = wanted - math.floor(wanted)
    error = math.sqrt(fraction * (1 - fraction) / drops.size)
    assert abs(float(drops.mean()) - wanted) <= 5 * error


@pytest.mark.parametrize(("passes", "rate"), CASES)
def test_no_two_passes_of_a_unit_are_closer_than_others(passes: int, rate: float) -> None:
    dropped = draw_dropped(passes, rate)
    # Of D drops, D (D - 1) ordered pairs are both dropped, out of T (T - 1); Var(D) = f (1 - f).
    fraction = rate * passes - math.floor(rate * passes)
    pairs = (rate * passes) ** 2 + fraction * (1 - fraction) - rate * passes
    both = pairs / (passes * (passes - 1))
    error = math.sqrt(both * (1 - both) / (SEEDS * UNITS))
    for some, other in itertools.combinations(range(passes), 2):
        together = float((dropped[:, some] * dropped[:, other]).mean())
        assert abs(together - both) <= 5 * error


@pytest.mark.parametrize(("passes", "rate"), CASES)
def test_distinct_units_are_uncorrelated(passes: int, rate: float) -> None:
    # More than 16 passes would only take longer.
    deviations = draw_dropped(passes, rate)[:, :16] - rate
    counted = deviations.shape[1]
    flat = deviations.reshape(SEEDS, -1)
    covariances = (flat.T @ flat / SEEDS).reshape(counted, UNITS, counted, UNITS)
    distinct = covariances.transpose(1, 3, 0, 2)[~np.eye(UNITS, dtype=bool)]  # (pairs, T, T)
    error = rate * (1 - rate) / math.sqrt(SEEDS)
    # The largest of a million normal deviations is about 5.
    assert np.abs(distinct).max() < 6 * error
    # In the same pass, on average over all passes.
    in_one_pass = distinct.diagonal(axis1=1, axis2=2).mean(axis=1)
    assert np.abs(in_one_pass).max() < 5 * error / math.sqrt(counted - 1)


def test_each_layer_has_its_own_rate() -> None:
    rates = (26 / 256, 128 / 256, 230 / 256)
    keep = balanced_keep(make_sites(*rates), 7, 100)
    for layer, rate in enumerate(rates):
        drops = (~keep[:, 20 * layer : 20 * (layer + 1)]).sum(axis=0)
        assert set(drops.tolist()) <= {math.floor(100 * rate), math.ceil(100 * rate)}


@pytest.mark.parametrize("passes", [1, 2, 7, 300])
def test_rate_0_drops_nothing(passes: int) -> None:
    assert balanced_keep(make_sites(0.0, 0.0), 3, passes).all()


@pytest.mark.parametrize("rate", [1 / 256, 51 / 256, 255 / 256])
def test_a_single_pass_is_bernoulli_too(rate: float) -> None:
    dropped = np.array([~balanced_keep(make_sites(rate), seed, 1) for seed in range(SEEDS)])
    error = math.sqrt(rate * (1 - rate) / dropped.size)
    assert abs(float(dropped.mean()) - rate) < 5 * error


def test_the_seed_decides_and_so_does_the_number_of_passes() -> None:
    sites = make_sites(*RATES)
    masks = balanced_keep(sites, 5, 50)
    assert (balanced_keep(sites, 5, 50) == masks).all()
    assert (balanced_keep(sites, 6, 50) != masks).any()
    # Unlike independent ones, the first passes of more are others.
    assert (balanced_keep(sites, 5, 100)[:50] != masks).any()


def test_a_large_number_of_passes_is_balanced_too() -> None:
    rate, passes = 51 / 256, 2**16
    dropped = ~balanced_keep(make_sites(rate), 1, passes)
    assert (dropped.sum(axis=0) == passes * rate).all()
    quarters = dropped.reshape(4, -1).mean(axis=1)
    error = math.sqrt(rate * (1 - rate) / (dropped.size / 4))
    assert np.abs(quarters - rate).max() < 5 * error


@pytest.mark.parametrize("passes", [1, 3, 50])
def test_the_units_that_are_reported_are_those_that_are_dropped(passes: int) -> None:
    sites = make_sites(*RATES)
    bits = np.unpackbits(dropped_units(sites, Passes(passes, 9, "balanced")), axis=1)
    assert (bits[:, :UNITS] == ~balanced_keep(sites, 9, passes)).all()
    assert not bits[:, UNITS:].any()


# The estimates made with them

PASSES = 50
TRUTH_PASSES = 10_000
MSE_SEEDS = range(1000, 1200)
VARIANCE_PASSES = 10
VARIANCE_SEEDS = range(2000, 2500)


@cache
def draw_images() -> list[Pixels]:
    """100 images: all digits, all pairs drawn over each other, and all pairs blended."""
    digits = [preprocess_image(np.array(draw_strokes(strokes))) for strokes in DIGITS]
    pairs = list(itertools.combinations(range(10), 2))
    overlaid = [
        preprocess_image(np.array(draw_strokes([*DIGITS[one], *DIGITS[other]])))
        for one, other in pairs
    ]
    blended = [digits[one] // 2 + digits[other] // 2 for one, other in pairs]
    return [*digits, *overlaid, *blended]


@pytest.fixture(scope="module")
def engine(one_thread: None, default_checkpoint: Checkpoint) -> Engine:
    return build_engine(default_checkpoint.network)


@pytest.fixture(scope="module")
def truth(engine: Engine) -> tuple[Array, Array]:
    """Mean and variance of 10,000 independent passes, each (images, C)."""
    answers = [
        sample_probs(engine, pixels, Passes(TRUTH_PASSES, seed)).astype(np.float64)
        for seed, pixels in enumerate(draw_images())
    ]
    return np.array([mean(a) for a in answers]), np.array([variance(a) for a in answers])


def sample_all(engine: Engine, images: Sequence[Pixels], passes: Passes) -> Array:
    """All passes of all images, (images, T, C)."""
    return np.array([sample_probs(engine, pixels, passes) for pixels in images], np.float64)


@pytest.mark.slow
def test_the_mean_has_no_bias_and_at_most_half_of_independents_squared_error(
    engine: Engine, truth: tuple[Array, Array]
) -> None:
    true_means, true_variances = truth
    estimators: tuple[Estimator, ...] = ("independent", "balanced")
    squared_error = {}
    for estimator in estimators:
        samples = (
            sample_all(engine, draw_images(), Passes(PASSES, seed, estimator)) for seed in MSE_SEEDS
        )
        means = np.array([probs.mean(axis=1) for probs in samples])  # (seeds, images, C)
        squared_error[estimator] = float(((means - true_means) ** 2).sum(axis=2).mean())
        # Classes that a few passes in thousands see are too skewed for a standard error alone.
        error = means.var(axis=0, ddof=1) / len(MSE_SEEDS) + true_variances / TRUTH_PASSES
        bias = np.abs(means.mean(axis=0) - true_means)
        assert (bias < 5 * np.sqrt(error) + 1e-4).all()
    # 0.26 of it was measured.
    assert squared_error["balanced"] <= 0.5 * squared_error["independent"]
    # What theory says of independent passes: the variance divided by their number.
    expected = float(true_variances.sum(axis=1).mean()) / PASSES
    assert squared_error["independent"] == pytest.approx(expected, rel=0.05)


@pytest.mark.slow
def test_the_variance_of_independent_passes_has_no_bias(
    engine: Engine, truth: tuple[Array, Array]
) -> None:
    of_image = truth[1].sum(axis=1)
    most_uncertain = np.argsort(of_image)[-30:]
    chosen = [draw_images()[number] for number in most_uncertain]
    samples = (sample_all(engine, chosen, Passes(VARIANCE_PASSES, seed)) for seed in VARIANCE_SEEDS)
    # Summed over the classes, (seeds, images).
    estimates = np.array([[variance(probs).sum() for probs in sampled] for sampled in samples])
    deviations = estimates.mean(axis=0) - of_image[most_uncertain]
    # One of thirty images may well be more than 3 standard errors off; their average may not.
    of_seeds = math.sqrt(len(VARIANCE_SEEDS))
    assert (np.abs(deviations) < 4 * estimates.std(axis=0, ddof=1) / of_seeds).all()
    error = estimates.mean(axis=1).std(ddof=1) / of_seeds
    assert abs(float(deviations.mean())) < 3 * error
    # Dividing by T instead of T - 1 would be off by a tenth.
    assert 6 * error < float(of_image[most_uncertain].mean()) / VARIANCE_PASSES
