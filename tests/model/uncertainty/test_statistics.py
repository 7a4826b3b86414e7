"""The statistics against values worked by hand, closed cases, and bits that never change."""

import math

import numpy as np
import pytest

from model.arrays import Floats, Probs
from model.uncertainty.statistics import entropy, summarise, summarise_images
from tests.model.engines import reference


def draw_passes(*shape: int, seed: int = 0) -> Floats:
    """Class probabilities as a network gives them, from undecided to nearly certain."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1, shape) * generator.uniform(0.1, 15, (*shape[:-1], 1))
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs: Floats = (exponentials / exponentials.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probs


# Worked by hand


def test_two_passes_worked_by_hand() -> None:
    summary = summarise(np.array([[0.5, 0.5], [1.0, 0.0]]))
    # (0.5 + 1) / 2 and (0.5 + 0) / 2
    assert summary.mean.tolist() == [0.75, 0.25]
    # Both deviate by 0.25 either way: (0.0625 + 0.0625) / (2 - 1)
    assert summary.variance is not None
    assert summary.variance.tolist() == [0.125, 0.125]
    # sqrt(0.125 / 2) = sqrt(0.0625)
    assert summary.standard_error is not None
    assert summary.standard_error.tolist() == [0.25, 0.25]
    # -(3/4 ln 3/4 + 1/4 ln 1/4) = ln 4 - 3/4 ln 3 = 0.562335
    assert summary.predictive_entropy == pytest.approx(math.log(4) - 0.75 * math.log(3), rel=1e-15)
    # The first pass has ln 2, the second 0: their mean is 0.346574.
    assert summary.expected_entropy == pytest.approx(math.log(2) / 2, rel=1e-15)
    # 0.562335 - 0.346574
    assert summary.mutual_information == pytest.approx(0.215762, abs=1e-6)
    # The tie of the first pass goes to the lower class.
    assert summary.votes.tolist() == [2, 0]


def test_three_passes_worked_by_hand() -> None:
    summary = summarise(np.array([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25], [0.75, 0.25, 0.0]]))
    # (1/4 + 1/2 + 3/4) / 3, (1/4 + 1/4 + 1/4) / 3, (1/2 + 1/4 + 0) / 3
    assert summary.mean.tolist() == [0.5, 0.25, 0.25]
    # (1/16 + 0 + 1/16) / 2, 0, (1/16 + 0 + 1/16) / 2
    assert summary.variance is not None
    assert summary.variance.tolist() == [0.0625, 0.0, 0.0625]
    # sqrt((1/16) / 3) = 1 / (4 sqrt 3)
    assert summary.standard_error is not None
    assert summary.standard_error == pytest.approx([0.25 / math.sqrt(3), 0, 0.25 / math.sqrt(3)])
    # 1/2 ln 2 + 2 * 1/4 ln 4 = 3/2 ln 2
    assert summary.predictive_entropy == pytest.approx(1.5 * math.log(2), rel=1e-15)
    # Two passes have 3/2 ln 2, as above; the last has ln 4 - 3/4 ln 3, as in two passes.
    last = math.log(4) - 0.75 * math.log(3)
    assert summary.expected_entropy == pytest.approx((3 * math.log(2) + last) / 3, rel=1e-15)
    # (3/2 ln 2 - last) / 3 = (1.039721 - 0.562335) / 3
    assert summary.mutual_information == pytest.approx(0.159128, abs=1e-6)
    assert summary.votes.tolist() == [2, 0, 1]


def test_each_of_several_distributions_has_its_own_entropy() -> None:
    several = np.array([[[0.5, 0.5], [1.0, 0.0]], [[0.75, 0.25], [0.0, 1.0]]])
    wanted = [[math.log(2), 0], [0.562335, 0]]
    assert entropy(several) == pytest.approx(np.array(wanted), abs=1e-6)


# Closed cases


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_entropy_of_a_uniform_answer_is_the_logarithm_of_the_classes(classes: int) -> None:
    assert float(entropy(np.full(classes, 1 / classes))) == pytest.approx(math.log(classes))


def test_the_entropy_of_a_certain_answer_is_exactly_0() -> None:
    # Not -0.0 either, which JSON would show.
    for row in np.eye(10):
        assert str(float(entropy(row))) == "0.0"


def test_x_log_x_is_0_at_0() -> None:
    assert float(entropy(np.array([0.5, 0.5, 0.0]))) == pytest.approx(math.log(2), rel=1e-15)
    assert float(entropy(np.zeros(3))) == 0


def test_the_smallest_float32_has_its_true_entropy() -> None:
    p = float(np.finfo(np.float32).smallest_subnormal)
    assert float(entropy(np.array([p]))) == pytest.approx(-p * math.log(p), rel=1e-12, abs=0)


def test_identical_passes_have_no_variance_and_no_mutual_information() -> None:
    for seed in range(200):
        probs = np.repeat(draw_passes(1, 10, seed=seed), 2 + seed, axis=0)
        summary = summarise(probs)
        assert summary.variance is not None
        # Sums of so few float32 are exact in float64, hence so is their mean. Entropies round.
        assert summary.variance.tolist() == [0] * 10
        assert 0 <= summary.mutual_information < 1e-14
        assert summary.mean == pytest.approx(probs[0])
        assert summary.votes[probs[0].argmax()] == 2 + seed


def test_certain_passes_that_disagree_are_all_mutual_information() -> None:
    summary = summarise(np.eye(4))
    assert summary.expected_entropy == 0
    assert summary.mutual_information == summary.predictive_entropy == pytest.approx(math.log(4))


def test_mutual_information_is_never_below_0() -> None:
    clamped = 0
    for seed in range(200):
        probs = np.repeat(draw_passes(1, 10, seed=seed), 3 + seed % 5, axis=0)
        summary = summarise(probs)
        clamped += summary.predictive_entropy < summary.expected_entropy
        assert summary.mutual_information >= 0
    assert clamped > 0  # or the clamp was never needed, and nothing was tested


def test_one_pass_has_neither_variance_nor_standard_error() -> None:
    probs = draw_passes(1, 10)
    summary = summarise(probs)
    assert summary.variance is None
    assert summary.standard_error is None
    assert summary.mean.tolist() == probs[0].tolist()
    assert summary.mutual_information == 0
    assert summary.votes.sum() == 1


def test_votes_are_counted_per_class_and_number_as_the_passes() -> None:
    probs = draw_passes(57, 10, seed=3)
    counted = summarise(probs).votes
    assert counted.dtype == np.int64
    choices = probs.argmax(axis=1).tolist()
    assert counted.tolist() == [choices.count(digit) for digit in range(10)]


@pytest.mark.parametrize("passes", [2, 3, 50, 1000])
def test_the_variance_is_numpys_with_ddof_1_in_float64(passes: int) -> None:
    probs = draw_passes(passes, 10, seed=passes)
    summary = summarise(probs)
    expected = np.var(probs.astype(np.float64), axis=0, ddof=1)
    assert summary.variance == pytest.approx(expected, rel=1e-12, abs=0)
    assert summary.standard_error == pytest.approx(np.sqrt(expected / passes), rel=1e-12, abs=0)


@pytest.mark.parametrize("passes", [2, 50])
def test_the_entropies_are_those_of_numpys_logarithm(passes: int) -> None:
    p = draw_passes(passes, 10, seed=passes).astype(np.float64)
    summary = summarise(p)
    of_passes = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
    mean = p.mean(axis=0)
    assert summary.expected_entropy == pytest.approx(of_passes.mean(), rel=1e-12)
    assert summary.predictive_entropy == pytest.approx(-(mean * np.log(mean)).sum(), rel=1e-12)


def test_a_variance_that_float32_would_lose_is_kept() -> None:
    # Passes one float32 apart, near 1: squares of float32 deviations would still do, but a mean
    # rounded to float32 would not.
    low = np.float32(1 - 2**-23)
    probs = np.array([[1, 0], [low, 0], [low, 0]], dtype=np.float32)
    # Deviations 2/3 d, -1/3 d, -1/3 d with d = 2^-23: (6/9) d^2 / 2 = d^2 / 3
    variance = summarise(probs).variance
    assert variance is not None
    assert variance[0] == pytest.approx(2.0**-46 / 3, rel=1e-6, abs=0)


# Bits that never change


@pytest.mark.parametrize(("passes", "classes"), [(1, 10), (2, 2), (7, 3), (50, 10), (129, 11)])
def test_a_summary_has_the_bits_of_the_written_order(passes: int, classes: int) -> None:
    for seed in range(5):
        probs = draw_passes(passes, classes, seed=seed)
        summary = summarise(probs)
        mean, variance, entropies = reference.summarise(probs)
        assert summary.mean.tobytes() == mean.tobytes()
        assert passes == 1 or np.asarray(summary.variance).tobytes() == variance.tobytes()
        assert [summary.predictive_entropy, summary.expected_entropy] == entropies.tolist()


def layouts(probs: Floats) -> dict[str, Probs]:
    """The same values, laid out in memory in other ways, and as float64."""
    spread = np.full([3 * size for size in probs.shape], np.nan, dtype=np.float32)
    strided = spread[tuple(slice(1, None, 3) for _ in probs.shape)]
    strided[...] = probs
    return {
        "columns first": np.asfortranarray(probs),
        "strided": strided,
        "backwards": probs[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
        "float64": probs.astype(np.float64),
        "float64, columns first": np.asfortranarray(probs, dtype=np.float64),
    }


@pytest.mark.parametrize("shape", [(1, 3), (50, 10), (4, 5, 10)])
def test_the_layout_in_memory_changes_no_bit_of_an_entropy(shape: tuple[int, ...]) -> None:
    probs = draw_passes(*shape)
    expected = entropy(probs).tobytes()
    for layout, other in layouts(probs).items():
        assert (other == probs).all()
        assert entropy(other).tobytes() == expected, layout


def test_the_layout_in_memory_changes_no_bit_of_a_summary() -> None:
    probs = draw_passes(100, 10)
    expected = summarise(probs)
    for layout, other in layouts(probs).items():
        summary = summarise(other)
        for value, wanted in zip(summary, expected, strict=True):
            assert np.asarray(value).tobytes() == np.asarray(wanted).tobytes(), layout


def test_the_passes_given_are_not_changed() -> None:
    kinds: tuple[Probs, ...] = (draw_passes(20, 10), draw_passes(20, 10).astype(np.float64))
    for probs in kinds:
        before = probs.copy()
        probs.flags.writeable = False
        summarise(probs)
        entropy(probs)
        assert (probs == before).all()


@pytest.mark.parametrize("passes", [1, 2, 50])
def test_the_statistics_of_many_images_have_the_bits_of_each(passes: int) -> None:
    probs = draw_passes(20, passes, 10)
    together = summarise_images(probs)
    alone = [summarise(each) for each in probs]
    for name in set(together._fields) - {"variance"}:
        wanted = np.array([getattr(each, name) for each in alone])
        assert getattr(together, name).tobytes() == wanted.tobytes(), name
    if passes == 1:
        assert together.variance is None
    else:
        assert together.variance is not None
        assert together.variance.tolist() == [each.variance.tolist() for each in alone]  # type: ignore[union-attr]
