"""Early stopping against a search through every number of passes."""

from typing import NamedTuple

import numpy as np
import pytest

from model.arrays import Floats, Pixels
from model.checkpoint import Checkpoint
from model.engines import build_engine
from model.engines.protocol import Engine, sample_probs
from model.literals import StopReason
from model.sampling.adaptive import CHECK_PASSES, LEAST_PASSES, sufficient_passes
from model.sampling.masks import Passes
from model.uncertainty.statistics import summarise
from tests.samples.draw import DIGITS, FOUR_OR_NINE, STAR, Stroke, draw_strokes, preprocess_image

pytestmark = pytest.mark.usefixtures("one_thread")

MOST = 300
# No digit, a doubtful one, and two that are two digits at once.
DRAWINGS: tuple[tuple[Stroke, ...], ...] = (
    STAR,
    FOUR_OR_NINE,
    (*DIGITS[3], *DIGITS[5]),
    (*DIGITS[0], *DIGITS[6]),
)


@pytest.fixture(scope="module")
def engine(one_thread: None, default_checkpoint: Checkpoint) -> Engine:
    return build_engine(default_checkpoint.network)


class Case(NamedTuple):
    """An image, and the passes that are computed at most."""

    pixels: Pixels
    passes: Passes


@pytest.fixture(scope="module")
def images() -> list[Case]:
    return draw_cases(MOST)


def draw_cases(count: int) -> list[Case]:
    pictures = [np.array(draw_strokes(drawing)) for drawing in DRAWINGS]
    return [
        Case(preprocess_image(picture), Passes(count, seed))
        for seed, picture in enumerate(pictures)
    ]


def sample_until(
    engine: Engine, image: Case, target: float, *, step: int = CHECK_PASSES
) -> tuple[Floats, StopReason]:
    """Samples `step` passes at a time until the criterion is met, as the server does."""
    prepared = engine.prepare(*image)
    probs = np.empty((0, 10), dtype=np.float32)
    while len(probs) < image.passes.count:
        checked = len(probs)
        stop = min(checked + step, image.passes.count)
        probs = np.concatenate([probs, engine.sample(prepared, checked, stop)])
        enough = sufficient_passes(probs, checked, target)
        if enough is not None:
            return probs[:enough], "standard_error"
    return probs, "passes"


def largest_error(probs: Floats) -> float:
    errors = summarise(probs).standard_error
    assert errors is not None
    return float(errors.max())


def search(probs: Floats, target: float) -> tuple[Floats, StopReason]:
    """The smallest number of passes from 32 on whose largest standard error is small enough."""
    for count in range(32, len(probs) + 1):
        if largest_error(probs[:count]) <= target:
            return probs[:count], "standard_error"
    return probs, "passes"


def targets_for(probs: Floats) -> list[float]:
    """Standard errors that are met exactly, just missed, early, late and never."""
    exact = [largest_error(probs[:count]) for count in (32, 33, 63, 64, 65, 100, 199, MOST)]
    missed = [float(np.nextafter(error, 0)) for error in exact]
    return [*exact, *missed, *np.geomspace(max(exact) * 2, min(exact) / 2, 20).tolist(), 1e-12, 1.0]


@pytest.mark.parametrize("number", range(len(DRAWINGS)))
def test_it_stops_at_the_smallest_number_of_passes_that_is_enough(
    engine: Engine, images: list[Case], number: int
) -> None:
    whole = sample_probs(engine, *images[number])
    lengths = set()
    for target in targets_for(whole):
        probs, reason = sample_until(engine, images[number], target)
        expected, expected_reason = search(whole, target)
        assert (len(probs), reason) == (len(expected), expected_reason)
        # They are the first passes of the longer answer.
        assert probs.tobytes() == whole[: len(probs)].tobytes()
        lengths.add(len(probs))
    assert {32, MOST} <= lengths
    assert len(lengths) >= 6  # or little was tested


def test_the_answer_never_contradicts_its_reason(engine: Engine, images: list[Case]) -> None:
    for image in images:
        for target in np.geomspace(0.2, 1e-6, 20):
            probs, reason = sample_until(engine, image, float(target))
            enough = largest_error(probs) <= target
            assert reason == ("standard_error" if enough else "passes")
            assert enough or len(probs) == MOST


def test_a_target_that_is_never_reached_takes_all_passes(
    engine: Engine, images: list[Case]
) -> None:
    probs, reason = sample_until(engine, images[1], 1e-9)
    assert reason == "passes"
    assert probs.tobytes() == sample_probs(engine, *images[1]).tobytes()


@pytest.mark.parametrize("count", [1, 2, 31])
def test_fewer_than_32_passes_are_all_computed(engine: Engine, count: int) -> None:
    for image in draw_cases(count):
        probs, reason = sample_until(engine, image, 1.0)
        assert reason == "passes"
        assert probs.tobytes() == sample_probs(engine, *image).tobytes()


@pytest.mark.parametrize("count", [32, 33, 64, 65])
def test_32_passes_are_enough_to_stop(engine: Engine, count: int) -> None:
    probs, reason = sample_until(engine, draw_cases(count)[1], 1.0)
    assert (len(probs), reason) == (32, "standard_error")


@pytest.mark.parametrize("step", [1, 7, 31, 32, 33, 100, 1000])
def test_how_often_it_checks_changes_nothing(engine: Engine, images: list[Case], step: int) -> None:
    cases = [(image, target) for image in images[1:] for target in (0.5, 0.05, 0.03, 1e-6)]
    expected = [sample_until(engine, image, target) for image, target in cases]
    actual = [sample_until(engine, image, target, step=step) for image, target in cases]
    for (probs, reason), (expected_probs, expected_reason) in zip(actual, expected, strict=True):
        assert probs.tobytes() == expected_probs.tobytes()
        assert reason == expected_reason


def test_no_more_passes_are_computed_than_until_the_next_check(
    engine: Engine, images: list[Case]
) -> None:
    before = engine.passes_computed
    probs, _ = sample_until(engine, images[1], 0.03)
    assert 32 < len(probs) < MOST  # or nothing was tested
    assert engine.passes_computed - before < len(probs) + CHECK_PASSES


# The search in what is already computed


def draw_probs(mean: float, spread: float, passes: int) -> Floats:
    """Passes of two classes around a mean."""
    generator = np.random.default_rng(0)
    first = np.clip(mean + spread * generator.standard_normal(passes), 0, 1).astype(np.float32)
    return np.column_stack([first, 1 - first])


@pytest.mark.parametrize("spread", [0.0, 1e-8, 3e-8, 6e-8, 1e-6, 1e-3, 0.3])
@pytest.mark.parametrize("mean", [0.3, 0.7, 0.99, 1.0])
def test_the_search_agrees_with_the_exact_criterion_at_any_scale(
    mean: float, spread: float
) -> None:
    """Running sums of squares lose small variances next to large means."""
    probs = draw_probs(mean, spread, 1000)
    errors = {count: largest_error(probs[:count]) for count in range(LEAST_PASSES, 1001)}
    for count in (32, 33, 500, 999, 1000):
        for target in (errors[count], errors[count] * 0.999, 1e-12):
            if target > 0:
                expected = min((n for n, error in errors.items() if error <= target), default=None)
                assert sufficient_passes(probs, 0, target) == expected


def test_passes_that_were_checked_are_not_checked_again() -> None:
    probs = draw_probs(0.5, 0.1, 200)
    target = largest_error(probs[:50])
    enough = [n for n in range(LEAST_PASSES, 201) if largest_error(probs[:n]) <= target]
    for checked in (0, 31, 32, 49, 50, 51, 150, 199):
        expected = min((n for n in enough if n > checked), default=None)
        assert sufficient_passes(probs, checked, target) == expected
    assert sufficient_passes(probs, 200, target) is None
