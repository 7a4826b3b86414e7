"""What a server makes of pictures, and how far passes disagree: on answers made by hand."""

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from tests.training.bars import draw_digits
from training.answers import McAnswers, answer_all
from training.report.paths import measure_split, prepare_all


def stroke(*columns: int) -> np.ndarray:
    """Vertical strokes of 16 pixels in a picture of 60x60, white on black."""
    picture = np.zeros((60, 60), np.uint8)
    for column in columns:
        picture[22:38, column : column + 3] = 255
    return picture


def test_what_is_refused_is_blank_and_several_digits_are_counted() -> None:
    pictures = np.stack([stroke(30), stroke(10, 45), np.zeros((60, 60), np.uint8)])
    prepared, outcomes = prepare_all(pictures, "pictures")
    assert outcomes.tolist() == ["single", "several", "refused"]
    assert prepared.shape == (3, 28, 28)
    assert [bool(image.any()) for image in prepared] == [True, True, False]


def answers(information: list[float], variance: float, ratio: float) -> McAnswers:
    """Answers with an entropy of 1 nat."""
    count = len(information)
    return McAnswers(
        mean=np.full((count, 10), 0.1),
        variance=np.full((count, 10), variance),
        predictive_entropy=np.ones(count),
        mutual_information=np.array(information),
        variation_ratio=np.full(count, ratio),
    )


@pytest.mark.parametrize("judged", [True, False])
def test_the_split_compares_rejected_outliers_with_ambiguous_digits(
    trained: Checkpoint, judged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = answer_all(trained, draw_digits(20, 2), passes=4, seed=0)
    shares = subject.sampled.mutual_information / subject.sampled.predictive_entropy
    monkeypatch.setattr("training.report.paths._AMBIGUOUS", 5)
    outliers = {"set": answers([2.0, 2.0, -1.0, 2.0], 1e-7, 0.0)}
    prepared = {"set": {"rejected_shares": np.array([-1.0, 2.0])}}
    ambiguity = np.arange(20, dtype=np.float64) if judged else None
    (row,) = measure_split(subject, outliers, prepared, ambiguity).values()
    assert (row["rejected"], row["no_variance"], row["unanimous"]) == (4, 1, 1)
    assert row["mean_share"] == pytest.approx(1.25)
    assert row["auroc"] == ({"none": 0.75, "auto": 0.5} if judged else {"none": None, "auto": None})
    assert prepared == {"set": {}}
    assert (shares < 2).all()
