"""When an answer is accepted, and what is said where it is not."""

import numpy as np
import pytest

from model.literals import Measure
from model.uncertainty.calibration import Calibration
from model.uncertainty.decisions import Decision, decide, decide_images
from model.uncertainty.statistics import summarise_images

CLEAR = np.array([0.97, 0.01, 0.01, 0.01])
TORN = np.array([0.1, 0.45, 0.05, 0.4])
SCATTERED = np.array([0.3, 0.3, 0.2, 0.2])
ENTROPY: Measure = "predictive_entropy"
BY_ENTROPY = Calibration(threshold=0.5)
BY_BOTH = Calibration(threshold=0.5, unfamiliar_threshold=0.2)


def test_nothing_is_decided_without_a_threshold() -> None:
    assert decide(CLEAR, 0.1, Calibration()) is None
    assert decide(CLEAR, 0.1, Calibration(), several_digits=True) is None
    only_disagreement = Calibration(unfamiliar_threshold=0.2)
    assert decide(CLEAR, 0.1, only_disagreement, mutual_information=0.3) is None


@pytest.mark.parametrize("score", [0.0, 0.3, 0.5])
def test_up_to_the_threshold_an_answer_is_accepted(score: float) -> None:
    accepted = Decision("accept", None, ENTROPY, score, 0.5)
    assert decide(CLEAR, score, BY_ENTROPY, mutual_information=score) == accepted
    assert decide(CLEAR, score, BY_BOTH, mutual_information=0.2) == accepted


def test_beyond_it_two_classes_that_share_the_image_are_ambiguous() -> None:
    # 0.45 and 0.4 are 0.85 together, wherever they stand.
    expected = Decision("abstain", "ambiguous", ENTROPY, 0.51, 0.5)
    assert decide(TORN, 0.51, BY_ENTROPY) == expected
    assert decide(TORN, 0.51, BY_BOTH, mutual_information=0.2) == expected


def test_passes_that_disagree_make_an_image_unfamiliar_whatever_their_mean_and_entropy() -> None:
    for mean, entropy in ((TORN, 0.51), (SCATTERED, 1.4), (CLEAR, 0.3)):
        expected = Decision("abstain", "unfamiliar", "mutual_information", 0.21, 0.2)
        assert decide(mean, entropy, BY_BOTH, mutual_information=0.21) == expected


def test_beyond_it_an_image_that_no_two_classes_share_is_unfamiliar() -> None:
    expected = Decision("abstain", "unfamiliar", ENTROPY, 1.4, 0.5)
    assert decide(SCATTERED, 1.4, BY_ENTROPY) == expected
    assert decide(SCATTERED, 1.4, BY_BOTH, mutual_information=0.1) == expected


def test_two_classes_share_an_image_from_three_quarters_on() -> None:
    at, below = np.array([0.5, 0.25, 0.25]), np.array([0.5, 0.2499, 0.2501 - 0.0005, 0.0005])
    assert decide(at, 1.0, BY_ENTROPY) == Decision("abstain", "ambiguous", ENTROPY, 1.0, 0.5)
    assert decide(below, 1.0, BY_ENTROPY) == Decision("abstain", "unfamiliar", ENTROPY, 1.0, 0.5)


def test_several_digits_are_never_accepted_however_clear() -> None:
    decided = decide(CLEAR, 0.1, BY_BOTH, mutual_information=0.3, several_digits=True)
    assert decided == Decision("abstain", "several_digits", ENTROPY, 0.1, 0.5)


@pytest.mark.parametrize("passes", [1, 5])
@pytest.mark.parametrize("disagreement", [None, 0.2])
def test_many_images_are_decided_as_each_alone(passes: int, disagreement: float | None) -> None:
    generator = np.random.default_rng(0)
    shares = generator.choice([0.05, 0.3, 3.0], (400, 1, 1))  # from certain to scattered
    draws = generator.standard_gamma(np.broadcast_to(shares, (400, passes, 4))) + 1e-9
    draws[:300] = draws[:300, :1]  # whose passes agree
    probs = (draws / draws.sum(axis=-1, keepdims=True)).astype(np.float32)
    summaries, several = summarise_images(probs), generator.random(400) < 0.1
    scores = summaries.predictive_entropy.astype(np.float32).tolist()
    informations = summaries.mutual_information.astype(np.float32).tolist()
    # On the threshold lies an image's own score, in float32.
    calibration = Calibration(threshold=sorted(scores)[100], unfamiliar_threshold=disagreement)

    outcomes, reasons = decide_images(summaries, calibration, several)

    for image, found in enumerate(zip(outcomes, reasons, strict=True)):
        decided = decide(
            summaries.mean[image],
            scores[image],
            calibration,
            mutual_information=informations[image],
            several_digits=bool(several[image]),
        )
        assert decided is not None
        assert found == decided[:2], image
    assert set(reasons) == {None, "several_digits", "ambiguous", "unfamiliar"}
    assert decide_images(summaries, Calibration(), several) == ([None] * 400, [None] * 400)
