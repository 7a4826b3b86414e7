"""What networks cost next to each other: guessed from their operations, then measured."""

import gc

import pytest

from app.inference.costs import NetworkCost, Unit
from model.checkpoint import Checkpoint
from model.engines import build_engine
from model.layered import InputSpec, LayeredNetwork
from model.layers import DropoutLayer, LinearLayer, ReluLayer
from tests.model.layered_networks import draw_network, tabular


def wide() -> LayeredNetwork:
    """Whose passes take 17 times as many multiplications as the committed network's."""
    spec = InputSpec((100,))
    layers = LinearLayer(1600), ReluLayer(), DropoutLayer(0.5), LinearLayer(1700), ReluLayer()
    return draw_network(spec, *layers, DropoutLayer(0.5), LinearLayer(10), classes=10)


def test_a_network_alone_is_the_unit(default_checkpoint: Checkpoint) -> None:
    for network in (default_checkpoint.network, wide(), tabular()):
        cost = NetworkCost(network, build_engine(network), Unit())
        cost.measure(1, 10.0)
        assert (cost.per_pass, cost.per_image, cost.deterministic) == (1, 32, 20)


def test_the_first_guess_follows_from_the_operations(default_checkpoint: Checkpoint) -> None:
    unit, network = Unit(), default_checkpoint.network
    committed = NetworkCost(network, build_engine(network), unit)
    small = NetworkCost(tabular(), build_engine(tabular()), unit)
    large = NetworkCost(wide(), build_engine(wide()), unit)

    assert (committed.per_pass, small.per_pass) == (1, 1)
    assert large.per_pass == pytest.approx((1_600 * 1_700 + 17_000) / 165_120, abs=1)
    assert large.deterministic >= 20


def test_what_is_measured_replaces_it(default_checkpoint: Checkpoint) -> None:
    unit, network = Unit(), default_checkpoint.network
    engine = build_engine(network)
    one, other = (NetworkCost(network, engine, unit) for _ in range(2))
    for _ in range(1000):
        one.measure(100, 100 * 1e-6)
        other.measure(100, 100 * 80e-6)

    assert (one.per_pass, other.per_pass) == (1, 16)  # of 5 us


def test_a_network_that_is_gone_is_no_longer_compared(default_checkpoint: Checkpoint) -> None:
    unit, network = Unit(), default_checkpoint.network
    slow = NetworkCost(wide(), build_engine(wide()), unit)
    fast = NetworkCost(network, build_engine(network), unit)
    assert slow.per_pass > 1
    del fast
    gc.collect()
    for _ in range(100):
        slow.measure(10, 10 * 1e-6)

    assert slow.per_pass == pytest.approx(1)
