"""When a decision has settled: fixed looks, and a margin that shrinks."""

import numpy as np
import pytest

from model.sampling.settling import LOOKS, has_settled, next_look
from model.uncertainty.calibration import Calibration

THRESHOLD, DISAGREEMENT = 0.5, 0.3


def test_looks_double_every_second_time() -> None:
    assert LOOKS[:10] == (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    assert LOOKS[-1] > 65_536
    assert [next_look(passes) for passes in (0, 3, 4, 15, 16, 24)] == [4, 4, 8, 16, 24, 32]


@pytest.mark.parametrize(
    ("entropy", "passes", "is_settled"),
    [
        # The margin of an entropy of 0 is 0.7 / sqrt(T).
        (0.0, 1, False),
        (0.0, 2, True),
        # At 0.25 it is 0.7 + 0.55 = 1.25, over sqrt(T), and the distance 0.25.
        (0.25, 24, False),
        (0.25, 26, True),
        # At 1 it is 1.8, and the distance 0.5.
        (1.0, 12, False),
        (1.0, 14, True),
        (THRESHOLD, 65_536, False),
    ],
)
def test_the_margin_shrinks_with_the_square_root_of_the_passes(
    entropy: float, passes: int, is_settled: bool
) -> None:
    calibration = Calibration(threshold=THRESHOLD)
    assert bool(has_settled(entropy, 9.0, calibration, passes, 1.0)) is is_settled
    assert bool(has_settled(entropy, 9.0, calibration, passes * 4, 2.0)) is is_settled


def test_either_measure_may_still_change_the_decision() -> None:
    calibration = Calibration(threshold=THRESHOLD, unfamiliar_threshold=DISAGREEMENT)
    information = np.array([0.0, DISAGREEMENT, 1.5])
    settled = has_settled(np.full(3, 0.1), information, calibration, 100, 1.0)
    assert settled.tolist() == [True, False, True]
