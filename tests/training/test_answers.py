"""Answers to many images: the engine's own, each image with a seed of its own."""

import numpy as np

from model.checkpoint import Checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.sampling.masks import Passes
from model.uncertainty.calibration import Calibration
from model.uncertainty.decisions import decide
from tests.training.bars import draw_digits
from training.answers import answer_all, is_accepted, sample_all, sample_grid, uncertainty_scores

IMAGES = draw_digits(6, 5)


def test_image_i_has_the_seed_plus_i(trained: Checkpoint) -> None:
    engine = build_engine(trained.network)
    sampled = sample_all(engine, IMAGES.pixels, passes=8, seed=40)
    for number, image in enumerate(IMAGES.pixels):
        probs = sample_probs(engine, image, Passes(8, 40 + number)).astype(np.float64)
        np.testing.assert_allclose(sampled.mean[number], probs.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(sampled.variance[number], probs.var(axis=0, ddof=1), atol=1e-12)


def test_fewer_passes_are_the_first_of_more(trained: Checkpoint) -> None:
    engine = build_engine(trained.network)
    grid = sample_grid(engine, IMAGES.pixels, (1, 3, 8), seed=40)
    assert list(grid) == [1, 3, 8]
    for passes, found in grid.items():
        alone = sample_all(engine, IMAGES.pixels, passes=passes, seed=40)
        for name, values in vars(alone).items():
            assert np.array_equal(getattr(found, name), values), name
    assert not grid[1].variance.any()
    assert not grid[1].mutual_information.any()


def test_every_uncertainty_score_has_a_value_per_image(trained: Checkpoint) -> None:
    subject = answer_all(trained, IMAGES, passes=4, seed=0)
    scores = uncertainty_scores(subject.predicted, subject.sampled)
    assert all(values.shape == (len(IMAGES),) for values in scores.values())
    assert subject.accepted("mc") is None


def test_answers_are_accepted_as_a_server_decides() -> None:
    generator = np.random.default_rng(0)
    means, entropies, information = generator.random((50, 4)), *generator.random((2, 50))
    for calibration in (Calibration(), Calibration(1, 0.5), Calibration(1, 0.5, {}, 0.4)):
        found = is_accepted(entropies, calibration, information)
        for number, (mean, entropy, disagreement) in enumerate(
            zip(means, entropies.tolist(), information.tolist(), strict=True)
        ):
            decided = decide(mean, entropy, calibration, mutual_information=disagreement)
            assert (decided is None) == (found is None)
            if decided is not None and found is not None:
                assert (decided.outcome == "accept") == found[number]
