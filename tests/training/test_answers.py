"""Answers to many images: the engine's own, each image with a seed of its own."""

import numpy as np

from model.checkpoint import Checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.sampling.masks import Passes
from tests.training.bars import draw_digits
from training.answers import answer_all, predict_all, sample_all, uncertainty_scores, with_rate

IMAGES = draw_digits(6, 5)


def test_image_i_has_the_seed_plus_i(trained: Checkpoint) -> None:
    engine = build_engine(trained.network)
    sampled = sample_all(engine, IMAGES.pixels, passes=8, seed=40)
    for number, image in enumerate(IMAGES.pixels):
        probs = sample_probs(engine, image, Passes(8, 40 + number)).astype(np.float64)
        np.testing.assert_allclose(sampled.mean[number], probs.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(sampled.variance[number], probs.var(axis=0, ddof=1), atol=1e-12)


def test_another_rate_leaves_the_weights_and_the_deterministic_answer(trained: Checkpoint) -> None:
    other = with_rate(trained.network, 0.3)
    assert other.config.dropout_rates == (77 / 256,) * 3
    for one, same in zip(trained.network.layers, other.layers, strict=True):
        assert np.array_equal(one.weight, same.weight)
        assert np.array_equal(one.bias, same.bias)
    first, second = (
        predict_all(build_engine(each), IMAGES.pixels) for each in (trained.network, other)
    )
    assert np.array_equal(first, second)


def test_every_uncertainty_score_has_a_value_per_image(trained: Checkpoint) -> None:
    subject = answer_all(trained, IMAGES, passes=4, seed=0)
    scores = uncertainty_scores(subject.predicted, subject.sampled)
    assert all(values.shape == (len(IMAGES),) for values in scores.values())
    assert np.array_equal(subject.uncertainty("mc"), scores["predictive entropy, MC"])
    assert np.array_equal(subject.uncertainty("predict"), scores["entropy, deterministic"])
