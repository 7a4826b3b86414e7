"""The report of a small network on a few images: complete, repeatable, and true to its answers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

import training.calibrate
import training.evaluate
import training.train
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.engines import build_engine
from tests.training.bars import calibrated, draw_digits
from training.answers import sample_all
from training.config import EvaluateOptions
from training.data import KMNIST, Images
from training.errors import TrainingError
from training.evaluate import evaluate
from training.report import measurements
from training.report.measurements import ANGLES
from training.report.pages import drawn_digits, shown_outliers

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def small(few_images: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images and passes than the real report takes."""
    monkeypatch.setattr(training.evaluate, "load_images", lambda *_: draw_digits(60, 2))
    monkeypatch.setattr(measurements, "_REFERENCE_PASSES", 64)
    monkeypatch.setattr(measurements, "PASSES", (2, 8))
    monkeypatch.setattr(measurements, "_IMAGES", 3)
    monkeypatch.setattr(training.evaluate, "PASSES", (1, 5))
    monkeypatch.setattr(training.evaluate, "load_corrupted", lambda *_: {"fog": draw_digits(10, 3)})
    monkeypatch.setattr(training.evaluate, "_ambiguity", lambda *_: np.arange(60) / 60)

    def load_unfamiliar(dataset: Any, _: Any) -> Any:
        if dataset is KMNIST:
            raise TrainingError("there is none")
        noise = np.random.default_rng(3).integers(0, 256, size=(20, 28, 28), dtype=np.uint8)
        return Images(noise, np.arange(20) % 2, dataset)

    monkeypatch.setattr(training.evaluate, "load_unfamiliar", load_unfamiliar)


def run(trained: Checkpoint, folder: Path, **options: Any) -> dict[str, Any]:
    """Evaluates and returns what the report's JSON says."""
    path = folder / "net.safetensors"
    save_checkpoint(path, calibrated(trained))
    defaults: dict[str, Any] = {"passes": 8, "card": folder / "card" / "README.md"}
    evaluate(EvaluateOptions(path, folder / "report", None, **{**defaults, **options}))
    document: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    return document


@pytest.mark.slow
def test_the_report_is_complete_repeatable_and_true(
    trained: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, trained)
    options = {"against": other, "also": [other]}
    report = run(trained, tmp_path / "one", **options)
    printed = capsys.readouterr().out
    assert run(trained, tmp_path / "two", **options) == report
    for path in (tmp_path / "one").rglob("*"):
        if path.suffix in {".md", ".svg", ".json"}:
            twin = tmp_path / "two" / path.relative_to(tmp_path / "one")
            assert path.read_bytes() == twin.read_bytes(), path

    # Scores, against scikit-learn's.
    images = draw_digits(60, 2)
    checkpoint = load_checkpoint(tmp_path / "one" / "net.safetensors")
    engine = build_engine(checkpoint.network)
    probs = sample_all(engine, images.pixels, passes=8, seed=0).mean
    row = report["scores"]["rows"]["MC dropout"]
    probs /= probs.sum(axis=1, keepdims=True)  # of float32: scikit-learn wants exactly 1
    assert row["nll"] == pytest.approx(log_loss(images.labels, probs), rel=1e-4)
    brier = brier_score_loss(images.labels, probs, scale_by_half=False)
    assert row["brier"] == pytest.approx(brier, rel=1e-4)
    assert f"{row['error']:.2%}" in printed

    # Another seed's checkpoint, with the same weights and without calibration.
    assert report["against"]["predict"]["p_value"] == 1
    one, *_ = report["against"]["unfamiliar"].values()
    assert one == {"notMNIST": report["unfamiliar"]["sets"]["notMNIST"]["auroc"]}
    assert [each["seed"] for each in report["seeds"]] == [7, 7]
    assert report["unfamiliar"]["sets"]["KMNIST"] == {"skipped": "there is none"}
    assert 0.5 < report["unfamiliar"]["sets"]["notMNIST"]["auroc"]["predictive entropy, MC"] <= 1
    assert set(report["unfamiliar"]["sets"]["notMNIST"]["auroc_of_few"]) == {
        "predictive_entropy",
        "mutual_information",
    }
    assert report["rotation"]["angles"] == list(ANGLES)

    # Other numbers of passes, and what a server makes of pictures.
    assert [row["passes"] for row in report["passes_table"]] == [1, 5, 8]
    of_8 = report["passes_table"][2]
    assert of_8["accepted"] == report["abstaining"]["decisions"]["mc"]["coverage"]
    assert of_8["nll"] == report["scores"]["rows"]["MC dropout, calibrated"]["nll"]
    digits, letters = report["prepared"]["MNIST"], report["prepared"]["notMNIST"]
    assert digits["images"] == 60
    assert letters["refused"] == 1  # noise
    assert letters["accepted"] == 0
    assert set(letters["classes"]) == {"A", "B"}
    assert report["prepared"]["KMNIST"] == {"skipped": "there is none"}
    assert 0 <= report["corrupted"]["fog"]["auto"]["error"] <= 1
    assert set(report["split"]["notMNIST"]["auroc"]) == {"none", "auto"}
    assert len(report["rotated_digit"]["probabilities"][0]) == 100

    page = (tmp_path / "one" / "report" / "report.md").read_text()
    card = tmp_path / "one" / "card" / "README.md"
    for text, folder in ((page, tmp_path / "one" / "report"), (card.read_text(), card.parent)):
        links = re.findall(r"\]\((figures/[^)]+)\)", text)
        assert links
        assert all((folder / link).stat().st_size > 1000 for link in links)
    assert "KMNIST was skipped: there is none." in page
    for figure in (tmp_path / "one" / "report" / "figures").glob("*.svg"):
        assert figure.with_suffix(".png").stat().st_size > 1000


def test_a_quick_evaluation_prints_and_writes_nothing(
    trained: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, trained)
    evaluate(EvaluateOptions(path, tmp_path / "report", None, passes=4, quick=True))
    out = capsys.readouterr().out
    assert out.startswith("mnist ")
    assert "MC dropout, calibrated" in out
    assert not (tmp_path / "report").exists()


def test_a_checkpoint_without_a_recipe_has_a_card_that_says_so(
    trained: Checkpoint, tmp_path: Path
) -> None:
    path, card = tmp_path / "net.safetensors", tmp_path / "card.md"
    save_checkpoint(path, Checkpoint(trained.network, training={"dataset": "mnist"}, metrics={}))
    evaluate(EvaluateOptions(path, tmp_path / "report", None, passes=8, card=card, also=(path,)))
    assert "Recipe: not recorded; seed None." in card.read_text()
    assert "it saw digits only" in card.read_text()


def test_an_output_that_cannot_be_written_fails_at_once(
    trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = tmp_path / "net.safetensors", tmp_path / "file"
    save_checkpoint(path, trained)
    output.write_text("no folder")
    monkeypatch.delattr(training.evaluate, "answer_all")  # nothing is measured before
    with pytest.raises(FileExistsError):
        evaluate(EvaluateOptions(path, output, None))


@pytest.mark.parametrize(
    ("recipe", "said", "unsaid"),
    [
        ({}, "it saw digits only", "`outliers`"),
        ({"outliers": 0.25}, "say little about them", "Printed letters"),
        ({"outliers": 0.25, "disagreement": 1.0}, "trained to disagree", "Printed letters"),
        (
            {"outliers": 1, "disagreement": 1.0, "pool": {"version": "0", "images": 5}},
            "Printed letters",
            "say little",
        ),
    ],
)
def test_the_card_says_what_this_network_was_shown(
    recipe: dict[str, Any], said: str, unsaid: str
) -> None:
    text = shown_outliers(recipe)
    assert said in text
    assert unsaid not in text


@pytest.mark.parametrize(("digits", "said"), [({"flagged_one": 3}, True), ({}, False)])
def test_the_card_says_that_digits_were_drawn(digits: dict[str, int], said: bool) -> None:
    text = drawn_digits({"pool": {"version": "0", "images": 5, "digits": digits}})
    assert ("Ones with a flag" in text) is said
    assert drawn_digits({}) == ""


def test_a_checkpoint_of_unknown_data_cannot_be_evaluated(
    trained: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, replace(trained, training={**trained.training, "dataset": "cats"}))
    with pytest.raises(TrainingError, match="'cats'; known are mnist"):
        evaluate(EvaluateOptions(path, tmp_path / "report", None, quick=True))
