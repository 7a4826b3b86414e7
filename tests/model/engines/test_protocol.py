"""Every kind of engine against a float64 textbook computation, and the bits of its answers."""

import itertools
import threading
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from model.arrays import Array, Floats
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.engines.protocol import Engine, predict_probs, sample_probs
from model.literals import MAX_SEED, Estimator, Precision
from model.network import MLP, normalise
from model.sampling.masks import Passes, dropped_units
from tests.model.engines.kinds import Kind, build
from tests.model.engines.networks import (
    BOTH,
    LAYER_SIZES,
    assert_all_digits_differ,
    digest,
    digests_alone,
    digests_in_company,
    draw_by_site,
    draw_images,
    draw_requests,
    make_network,
    mean,
    textbook_probs,
    variance,
)
from tests.model.engines.torch_reference import forward

pytestmark = pytest.mark.usefixtures("one_thread")


# Of mean and of variance. bfloat16 has 8 significant bits and logits are of size tens: 2.4e-3 and
# 1.3e-3 were measured, on one image of 100; half of them are below 2e-5.
TOLERANCES: dict[Precision, tuple[float, float]] = {
    "float32": (1e-5, 1e-5),
    "bfloat16": (5e-3, 3e-3),
}


PASS_COUNTS = (1, 2, 3, 4, 5, 10, 50, 100, 127, 128, 129, 255, 256, 257, 300, 1000)


@cache
def reference(estimator: Estimator) -> tuple[Array, ...]:
    """50 passes of the default network for each of the images, image i with seed i."""
    network = load_checkpoint(DEFAULT_CHECKPOINT).network
    sites = network.config.dropout_sites
    return tuple(
        textbook_probs(network, pixels, draw_by_site(sites, seed, 50, estimator=estimator))
        for seed, pixels in enumerate(draw_images())
    )


def assert_agree(probs: Floats, expected: Array, precision: Precision) -> None:
    of_mean, of_variance = TOLERANCES[precision]
    assert probs.dtype == np.float32
    assert mean(probs) == pytest.approx(expected.mean(axis=0), abs=of_mean)
    assert variance(probs) == pytest.approx(expected.var(axis=0, ddof=1), abs=of_variance)


# The right numbers


@pytest.mark.parametrize("estimator", BOTH)
def test_mean_and_variance_are_those_of_a_float64_textbook_computation(
    engine: Engine, kind: Kind, estimator: Estimator
) -> None:
    uncertain = 0
    for seed, (pixels, expected) in enumerate(
        zip(draw_images(), reference(estimator), strict=True)
    ):
        assert_agree(sample_probs(engine, pixels, Passes(50, seed, estimator)), expected, kind[1])
        uncertain += float(expected.var(axis=0).max()) > 0.01
    assert uncertain > 20  # or nothing was tested


def test_deterministic_answers_are_those_of_the_network(
    engine: Engine, default_checkpoint: Checkpoint
) -> None:
    network = default_checkpoint.network
    for pixels in draw_images():
        logits = forward(network, normalise(pixels, network.config))[0]
        assert engine.predict_logits(pixels) == pytest.approx(logits.numpy(), abs=1e-3)
        expected = logits.softmax(dim=0).numpy()
        probs = predict_probs(engine, pixels)
        assert probs.shape == (10,)
        assert probs.dtype == np.float32
        # In float32 whatever the precision of the passes.
        assert probs == pytest.approx(expected, abs=1e-5)
        assert probs == pytest.approx(textbook_probs(network, pixels)[0], abs=1e-5)


@pytest.mark.parametrize("layer_sizes", LAYER_SIZES, ids=str)
@pytest.mark.parametrize("estimator", BOTH)
def test_networks_of_other_sizes_are_computed_as_the_textbook_does(
    kind: Kind, layer_sizes: tuple[int, ...], estimator: Estimator
) -> None:
    network = make_network(layer_sizes)
    engine = build(kind, network)
    for pixels in draw_images()[::9]:
        masks = draw_by_site(network.config.dropout_sites, 3, 50, estimator=estimator)
        probs = sample_probs(engine, pixels, Passes(50, 3, estimator))
        assert_agree(probs, textbook_probs(network, pixels, masks), kind[1])
        expected = textbook_probs(network, pixels)[0]
        assert predict_probs(engine, pixels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_network_whose_first_layer_is_inactive_answers(kind: Kind, estimator: Estimator) -> None:
    network = make_network((784, 64, 32, 10))
    network.layers[0].bias.fill(-1000)
    engine = build(kind, network)
    for pixels in draw_images()[::20]:
        masks = draw_by_site(network.config.dropout_sites, 3, 50, estimator=estimator)
        expected = textbook_probs(network, pixels, masks)
        assert_agree(sample_probs(engine, pixels, Passes(50, 3, estimator)), expected, kind[1])
        assert float(expected.var(axis=0).max()) > 0  # the second layer still drops units


@pytest.mark.parametrize("estimator", BOTH)
def test_rate_0_gives_the_same_bits_in_every_pass(kind: Kind, estimator: Estimator) -> None:
    for layer_sizes in ((784, 512, 256, 128, 10), (784, 33, 17, 5, 3)):
        engine = build(kind, make_network(layer_sizes, rates=(0.0, 0.0, 0.0)))
        for pixels in draw_images()[::20]:
            probs = sample_probs(engine, pixels, Passes(300, 0, estimator))
            assert len({row.tobytes() for row in probs}) == 1
            assert variance(probs).tolist() == [0] * layer_sizes[-1]
            of_mean, _ = TOLERANCES[kind[1]]
            assert probs[0] == pytest.approx(predict_probs(engine, pixels), abs=of_mean)


@pytest.mark.parametrize("estimator", BOTH)
def test_the_units_reported_as_dropped_are_those_that_were(
    engine: Engine, kind: Kind, default_checkpoint: Checkpoint, estimator: Estimator
) -> None:
    network, pixels = default_checkpoint.network, draw_images()[40]
    passes = Passes(50, 8, estimator)
    assert engine.dropout_sites == network.config.dropout_sites
    bits = np.unpackbits(dropped_units(engine.dropout_sites, passes), axis=1)
    ends = np.cumsum(network.config.hidden_sizes)
    masks = [part == 0 for part in np.split(bits, ends, axis=1)[:-1]]
    assert_agree(
        sample_probs(engine, pixels, passes), textbook_probs(network, pixels, masks), kind[1]
    )


def test_rows_sum_to_1(engine: Engine) -> None:
    for pixels in draw_images()[::10]:
        probs = sample_probs(engine, pixels, Passes(100, 1))
        assert probs.sum(axis=1) == pytest.approx(1, abs=1e-6)
        assert float(probs.min()) >= 0


@pytest.mark.parametrize("estimator", BOTH)
def test_a_network_without_activations_is_computed_as_the_textbook_does(
    kind: Kind, estimator: Estimator
) -> None:
    relu = make_network((784, 33, 17, 10))
    network = MLP(replace(relu.config, activation="linear"), relu.layers)
    engine = build(kind, network)
    for pixels in draw_images()[::9]:
        masks = draw_by_site(network.config.dropout_sites, 3, 50, estimator=estimator)
        probs = sample_probs(engine, pixels, Passes(50, 3, estimator))
        assert_agree(probs, textbook_probs(network, pixels, masks), kind[1])
        expected = textbook_probs(network, pixels)[0]
        assert predict_probs(engine, pixels) == pytest.approx(expected, abs=1e-5)


# The same bits, whatever else is computed


def test_a_pass_has_the_same_bits_in_answers_of_any_length(engine: Engine) -> None:
    for number in (7, 40, 99):
        pixels = draw_images()[number]
        whole = sample_probs(engine, pixels, Passes(1000, number))
        for count in PASS_COUNTS:
            probs = sample_probs(engine, pixels, Passes(count, number))
            assert probs.tobytes() == whole[:count].tobytes()


@pytest.mark.parametrize("layer_sizes", LAYER_SIZES[:2], ids=str)
@pytest.mark.parametrize("estimator", BOTH)
@pytest.mark.parametrize("count", [1, 70])
def test_images_have_the_same_bits_in_one_call(
    kind: Kind, layer_sizes: tuple[int, ...], estimator: Estimator, count: int
) -> None:
    network = make_network(layer_sizes)
    for rate in (0.0, 0.25):
        config = replace(network.config, input_dropout_rate=rate)
        engine = build(kind, MLP(config, network.layers))
        images = np.stack(draw_images()[::25])
        seeds = [7 * number for number in range(len(images))]
        together = engine.sample_images(images, seeds, Passes(count, 0, estimator))
        alone = [
            sample_probs(engine, image, Passes(count, seed, estimator))
            for image, seed in zip(images, seeds, strict=True)
        ]
        assert together.shape == (len(images), count, layer_sizes[-1])
        assert together.tobytes() == np.stack(alone).tobytes()


@pytest.mark.parametrize("estimator", BOTH)
def test_a_pass_has_the_same_bits_wherever_a_range_starts_and_stops(
    engine: Engine, estimator: Estimator
) -> None:
    pixels = draw_images()[40]
    image = engine.prepare(pixels, Passes(600, 5, estimator))
    whole = engine.sample(image, 0, 600)
    starts, lengths = (0, 1, 3, 50, 127, 255, 256, 300), (0, 1, 2, 3, 4, 5, 17, 128, 257, 300)
    for start, length in itertools.product(starts, lengths):
        part = engine.sample(image, start, start + length)
        assert part.shape == (length, 10)
        assert part.tobytes() == whole[start : start + length].tobytes()


@pytest.mark.parametrize("layer_sizes", LAYER_SIZES, ids=str)
def test_networks_of_other_sizes_keep_their_bits_too(
    kind: Kind, layer_sizes: tuple[int, ...]
) -> None:
    engine = build(kind, make_network(layer_sizes))
    for pixels, estimator in zip((draw_images()[40], draw_images()[3]), BOTH, strict=True):
        image = engine.prepare(pixels, Passes(600, 1, estimator))
        whole = engine.sample(image, 0, 600)
        for start, length in itertools.product((0, 1, 255, 300), (1, 2, 3, 5, 130, 300)):
            part = engine.sample(image, start, start + length)
            assert part.tobytes() == whole[start : start + length].tobytes()


def test_every_kind_of_engine_gives_the_same_bytes_alone_and_in_any_company(
    engine: Engine,
) -> None:
    requests = draw_requests(100)
    alone = digests_alone(engine, requests)
    assert_all_digits_differ(requests, alone)
    assert digests_in_company(engine, requests, seed=2) == alone


def test_engines_built_anew_give_the_same_bytes(
    kind: Kind, engine: Engine, default_checkpoint: Checkpoint
) -> None:
    requests, again = draw_requests(30), build(kind, default_checkpoint.network)
    assert digests_alone(again, requests) == digests_alone(engine, requests)


@pytest.mark.parametrize("estimator", BOTH)
def test_other_seeds_images_and_estimators_give_other_passes(
    engine: Engine, estimator: Estimator
) -> None:
    pixels = draw_images()[40]
    answers = {
        digest(sample_probs(engine, pixels, Passes(50, seed, estimator)))
        for seed in (0, 1, 2**32, MAX_SEED)
    }
    assert len(answers) == 4
    assert digest(sample_probs(engine, draw_images()[41], Passes(50, 0, estimator))) not in answers
    others = {digest(sample_probs(engine, pixels, Passes(50, 0, other))) for other in BOTH}
    assert len(others) == 2


# What the engine leaves unchanged


def test_neither_the_network_nor_a_global_generator_is_touched(kind: Kind) -> None:
    network = make_network((784, 64, 32, 10))
    weights = [array.tobytes() for layer in network.layers for array in layer]
    before = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    engine = build(kind, network)
    for seed, pixels in enumerate(draw_images()[::10]):
        given = pixels.copy()
        predict_probs(engine, pixels)
        for estimator in BOTH:
            sample_probs(engine, pixels, Passes(20, seed, estimator))
        assert pixels.tobytes() == given.tobytes()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state(legacy=False)) == before[1]
    assert [array.tobytes() for layer in network.layers for array in layer] == weights


def test_an_answer_is_not_overwritten_by_the_next(engine: Engine) -> None:
    images = draw_images()
    passes, other_passes = Passes(50, 0), Passes(50, 1)
    prepared = engine.prepare(images[40], passes)
    answer = engine.sample(prepared, 0, 50)
    probs = predict_probs(engine, images[40])
    kept = answer.tobytes(), probs.tobytes()
    sample_probs(engine, images[41], other_passes)
    predict_probs(engine, images[41])
    assert (answer.tobytes(), probs.tobytes()) == kept
    assert engine.sample(prepared, 0, 50).tobytes() == kept[0]


def test_deterministic_answers_are_the_same_while_another_thread_samples(engine: Engine) -> None:
    images = draw_images()[::5]
    expected = [predict_probs(engine, pixels).tobytes() for pixels in images]
    sampled = sample_probs(engine, images[9], Passes(100, 0)).tobytes()
    stop, repeats = threading.Event(), []

    def sample() -> None:
        while not stop.is_set():
            repeats.append(sample_probs(engine, images[9], Passes(100, 0)).tobytes() == sampled)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for _ in range(25):
            assert [predict_probs(engine, pixels).tobytes() for pixels in images] == expected
    finally:
        stop.set()
        sampler.join()
    assert repeats
    assert all(repeats)


def test_requested_passes_are_counted(kind: Kind) -> None:
    engine = build(kind, make_network((784, 20, 10)))
    engine.sample(engine.prepare(draw_images()[0], Passes(300, 0)), 0, 300)
    image = engine.prepare(draw_images()[1], Passes(5, 1, "balanced"))
    engine.sample(image, 0, 3)
    engine.sample(image, 3, 5)
    predict_probs(engine, draw_images()[0])
    assert engine.passes_computed == 305
