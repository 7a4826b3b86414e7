"""The report of a small network on a few images: complete, repeatable, and true to its answers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

import training.calibrate
import training.data
import training.evaluate
import training.metrics
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from model.engines.relu_mlp import Engine
from model.network import MLP, MLPConfig
from model.uncertainty.calibration import read_calibration
from training.answers import sample_all
from training.calibrate import Candidate, choose_rate, fit
from training.config import CalibrationRules
from training.data import DATASETS, FASHION_MNIST, KMNIST, NOTMNIST, Images
from training.errors import TrainingError
from training.evaluate import EvaluateOptions, evaluate
from training.metrics import score
from training.report import convergence
from training.report.shifts import ANGLES, rotate

RULES = CalibrationRules(nll_tolerance=0.5, accepted_error=0.9)


def draw_digits(count: int, seed: int) -> Images:
    """Ten classes of images: a bright bar whose place tells the class, with noise."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    pixels = generator.integers(0, 60, size=(count, 28, 28), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[4:24, 2 * label + 4 : 2 * label + 6] += np.uint8(120)
    return Images(pixels, labels)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """A small network that has learnt the bars, in a few steps."""
    torch.manual_seed(0)
    network = MLP(MLPConfig(layer_sizes=(784, 32, 16, 16, 10), mean=0.15, std=0.2))
    images = draw_digits(200, 0)
    x = (torch.from_numpy(images.pixels).flatten(1) / 255 - 0.15) / 0.2
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(network(x), torch.from_numpy(images.labels))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.requires_grad_(False)
    training = {
        "dataset": "mnist",
        "recipe": {"validation_images": 300, "epochs": 1},
        "seed": 7,
        "dropout_rates": [0.2, 0.2, 0.2],
    }
    return Checkpoint(network, training=training, metrics={"validation": {"error": 0.125}})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer images and passes than the real report takes."""
    images = {"train": draw_digits(500, 1), "test": draw_digits(60, 2)}
    for module in (training.calibrate, training.evaluate):
        monkeypatch.setattr(module, "load_images", lambda split, *_: images[split])
    monkeypatch.setattr(training.calibrate, "UNFAMILIAR_PER_KIND", 10)
    monkeypatch.setattr(training.calibrate, "CANDIDATE_RATES", (0.1, 0.3))
    monkeypatch.setattr(training.calibrate, "PASSES", 8)
    monkeypatch.setattr(convergence, "_REFERENCE_PASSES", 64)
    monkeypatch.setattr(convergence, "PASSES", (2, 8))
    monkeypatch.setattr(convergence, "_IMAGES", 3)

    def load_unfamiliar(dataset: Any, _: Any) -> Any:
        if dataset is KMNIST:
            raise TrainingError("there is none")
        return np.random.default_rng(3).integers(0, 256, size=(20, 28, 28), dtype=np.uint8)

    monkeypatch.setattr(training.evaluate, "load_unfamiliar", load_unfamiliar)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated")


def calibrated(trained: Checkpoint) -> Checkpoint:
    return fit(trained, draw_digits(300, 4), RULES)


# Calibration


def test_everything_is_fitted_and_the_rest_stays(trained: Checkpoint) -> None:
    found = calibrated(trained)
    assert all(
        torch.equal(one, other)
        for one, other in zip(
            found.network.state_dict().values(), trained.network.state_dict().values(), strict=True
        )
    )
    assert found.training == trained.training
    assert found.metrics["validation"] == {"error": 0.125}
    assert found.network.config.dropout_rates[0] in (26 / 256, 77 / 256)
    for kind in ("predict", "mc"):
        calibration = read_calibration(found.calibration, kind)
        assert calibration.temperature > 0
        assert calibration.threshold is not None
        assert sorted(calibration.least_probabilities) == [0.99, 0.995, 0.999]
        # 300 images are too few for 0.999: every class is in every set.
        assert calibration.least_probabilities[0.999] == 0
    assert found.calibration["fitted_with"]["images"] == 300


def test_the_same_checkpoint_gets_the_same_bytes_and_so_does_a_calibrated_one(
    trained: Checkpoint, tmp_path: Path
) -> None:
    first, second, again = (tmp_path / name for name in ("first", "second", "again"))
    save_checkpoint(tmp_path / "raw", trained)
    for output in (first, second):
        training.calibrate.calibrate(tmp_path / "raw", output, None, RULES)
    training.calibrate.calibrate(first, again, None, RULES)
    assert first.read_bytes() == second.read_bytes() == again.read_bytes()


def candidate(rate: float, nll: float, auroc: float, error_bound: float = 0.001) -> Candidate:
    return Candidate(rate, nll, 0.01, auroc, error_bound)


def test_the_rate_that_tells_the_unfamiliar_apart_best_is_chosen_of_those_affordable() -> None:
    rules = CalibrationRules(nll_tolerance=0.2, accepted_error=0.002)
    candidates = [
        candidate(0.1, 0.0200, 0.90),
        candidate(0.2, 0.0180, 0.91),
        candidate(0.3, 0.0215, 0.95),
        candidate(0.4, 0.0217, 0.97),  # 0.0180 and a fifth are 0.0216
        # Were its NLL the one to be held against, none could be afforded.
        candidate(0.5, 0.0100, 0.99, error_bound=0.0021),
    ]
    assert choose_rate(candidates, rules) == 2


def test_no_affordable_rate_is_an_error_that_names_the_options() -> None:
    rules = CalibrationRules(accepted_error=0.002)
    with pytest.raises(TrainingError, match="--accepted-error"):
        choose_rate([candidate(0.1, 0.02, 0.9, error_bound=0.5)], rules)


# The report


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
    engine = Engine(checkpoint.network)
    probs = sample_all(engine, images.pixels, passes=8, seed=0).mean
    row = report["scores"]["rows"]["MC dropout"]
    probs /= probs.sum(axis=1, keepdims=True)  # of float32: scikit-learn wants exactly 1
    assert row["nll"] == pytest.approx(log_loss(images.labels, probs), rel=1e-4)
    brier = brier_score_loss(images.labels, probs, scale_by_half=False)
    assert row["brier"] == pytest.approx(brier, rel=1e-4)
    assert f"{row['error']:.2%}" in printed

    # Another seed's checkpoint, with the same weights and without calibration.
    assert report["against"]["predict"]["p_value"] == 1
    assert [each["seed"] for each in report["seeds"]] == [7, 7]
    assert report["unfamiliar"]["sets"]["KMNIST"] == {"skipped": "there is none"}
    assert 0.5 < report["unfamiliar"]["sets"]["notMNIST"]["auroc"]["predictive entropy, MC"] <= 1
    assert report["rotation"]["angles"] == list(ANGLES)
    assert len(report["rotated_digit"]["probabilities"][0]) == 100

    page = (tmp_path / "one" / "report" / "report.md").read_text()
    card = tmp_path / "one" / "card" / "README.md"
    for text, beside in ((page, tmp_path / "one" / "report"), (card.read_text(), card.parent)):
        links = re.findall(r"\]\((figures/[^)]+)\)", text)
        assert links
        assert all((beside / link).stat().st_size > 1000 for link in links)
    assert "KMNIST was skipped: there is none." in page
    for figure in (tmp_path / "one" / "report" / "figures").glob("*.svg"):
        assert figure.with_suffix(".png").stat().st_size > 1000


def test_a_quick_evaluation_prints_and_writes_nothing(
    trained: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, trained)
    evaluate(EvaluateOptions(path, tmp_path / "report", None, passes=4, is_quick=True))
    out = capsys.readouterr().out
    assert out.startswith("mnist ")
    assert "MC dropout, calibrated" in out
    assert not (tmp_path / "report").exists()


def test_images_turn_counter_clockwise_about_their_middle() -> None:
    image = np.zeros((1, 28, 28), dtype=np.uint8)
    image[0, 13:15, 20:26] = 255  # a bar to the right
    (turned,) = rotate(image, 90)
    expected = np.zeros((28, 28), dtype=np.uint8)
    expected[2:8, 13:15] = 255  # now above
    assert np.array_equal(turned, expected)


# Scores


def test_the_brier_score_worked_by_hand() -> None:
    probs = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
    # (0.3^2 + 0.2^2 + 0.1^2) = 0.14 and (0.25^2 + 0.5^2 + 0.75^2) = 0.875
    assert score(probs, np.array([0, 2])).brier == pytest.approx((0.14 + 0.875) / 2)


def test_bins_of_equal_mass_hold_equally_many() -> None:
    # Bins of two: 0.51 and 0.6, both right, gap 0.445 each; 0.9 right and 1.0 wrong: 0.45.
    confidence = np.array([0.9, 0.51, 1.0, 0.6])
    probs = np.stack([confidence, 1 - confidence], axis=1)
    labels = np.array([0, 0, 1, 0])
    found = training.metrics.calibration_error(probs, labels, bins=2, binning="mass")
    assert found == pytest.approx((2 * 0.445 + 2 * 0.45) / 4)


# Other data


def test_labels_and_checksums_of_every_data_set_are_whole() -> None:
    assert list(DATASETS) == ["mnist", "fashion-mnist", "kmnist"]
    for dataset in DATASETS.values():
        assert len(set(dataset.labels)) == 10
        assert len(set(dataset.md5.values())) == 4
        assert all(mirror.endswith("/") for mirror in dataset.mirrors)
    assert FASHION_MNIST.labels[9] == "Ankle boot"
    assert NOTMNIST.name not in DATASETS


def test_a_checkpoint_of_unknown_data_cannot_be_evaluated(
    trained: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, replace(trained, training={**trained.training, "dataset": "cats"}))
    with pytest.raises(TrainingError, match="'cats'; known are mnist"):
        evaluate(EvaluateOptions(path, tmp_path / "report", None, is_quick=True))
