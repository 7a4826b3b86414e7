"""`dropserve review`: what it shows, and the file that it writes."""

from pathlib import Path

import numpy as np
import pytest

from app.cli.review import review
from app.errors import UsageError
from app.inference.review import ReviewFolder, review_files
from app.schemas import Decision, ModelIdentity, Prediction, PredictParameters
from tests.conftest import sample

ANSWER = Prediction(
    digit=3,
    label="3",
    confidence=0.5,
    probabilities=[0.1] * 10,
    predictive_entropy=1.5,
    decision=Decision(outcome="abstain", reason="ambiguous", score=1.5, threshold=0.4),
    model=ModelIdentity(name="mnist", version="0"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures: two files, and the pixels of one."""
    monkeypatch.setattr("app.inference.review._PER_SECOND", float("inf"))
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:24, 12:16] = 255
    kept = ReviewFolder(tmp_path / "kept", 2**20, 0)
    for image in (sample("7.png"), pixels, sample("3.png")):
        kept.offer(image, PredictParameters(), ANSWER)
    kept.close()
    return tmp_path / "kept"


def test_labels_are_taken_and_written_for_calibrate(folder: Path, tmp_path: Path) -> None:
    output, shown = tmp_path / "labels.npz", list[str]()

    assert review(folder, output, ["7\n", "x\n", "10\n", "1\n", "q\n"], shown.append) == 2

    with np.load(output) as saved:
        assert saved["inputs"].shape == (2, 28, 28)
        assert saved["inputs"].dtype == np.uint8
        assert saved["labels"].tolist() == [7, 1]
        assert saved["names"].tolist() == [path.name for path in review_files(folder)[:2]]
        assert (saved["inputs"][1] == 255).sum() == 80
    text = "".join(shown)
    assert "3 (0.500), ambiguous" in text
    assert text.count("label, 0 to 9") == 5
    assert "@@@@" in text


def test_what_has_a_label_is_not_shown_again_and_what_was_passed_on_is(
    folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labels.npz"
    assert review(folder, output, ["7\n", "\n", "q\n"], len) == 1
    assert review(folder, output, ["1\n", "3\n"], len) == 3
    assert review(folder, output, [], pytest.fail) == 3
    with np.load(output) as saved:
        assert saved["labels"].tolist() == [7, 1, 3]


def test_what_cannot_be_read_is_named_and_passed_over(folder: Path, tmp_path: Path) -> None:
    review_files(folder)[0].write_text("{")
    shown: list[str] = []
    assert review(folder, tmp_path / "labels.npz", ["1\n", "3\n"], shown.append) == 2
    assert "cannot be shown" in shown[0]


def test_a_file_of_something_else_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, weights=np.zeros(3))
    with pytest.raises(UsageError, match="not a file of dropserve review"):
        review(folder, other, ["1\n"], len)
