"""The recipe on ten made-up patterns: it learns, repeats its bytes, and minds every setting."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import training.train
from model.arrays import Floats, KeepMasks
from model.checkpoint import Checkpoint, load_checkpoint
from model.engines import build_engine
from model.network import normalise
from model.sampling.masks import DropoutSite, Passes, draw_masks
from tests.training.patterns import CPU, IMAGES, TINY, read_history, refusal, run, without_seconds
from training.answers import sample_all
from training.augmentation import Epoch
from training.data import Images
from training.errors import TrainingError
from training.network import TrainableMLP
from training.outliers import SHOWN, make_unfamiliar
from training.train import (
    TEACHER_SETTINGS,
    Run,
    batches,
    evaluate_network,
    start,
    train,
    train_epoch,
)

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


# Learning


def test_a_run_learns(undisturbed: Path) -> None:
    # Chance is 0.9 wrong.
    assert load_checkpoint(undisturbed).metrics["validation"]["error"] < 0.1
    losses = [row["train_loss"] for row in read_history(undisturbed)]
    assert losses[-1] < losses[0] / 2


def test_the_recorded_scores_are_those_of_the_saved_network_on_the_held_out_images(
    undisturbed: Path,
) -> None:
    checkpoint = load_checkpoint(undisturbed)
    scores = evaluate_network(TrainableMLP.from_network(checkpoint.network), IMAGES[500:])
    assert checkpoint.metrics == {
        "validation": {
            "images": 100,
            "error": scores.error,
            "nll": scores.nll,
            "ece": scores.ece,
        }
    }


def test_mean_and_std_are_those_of_the_images_trained_on(undisturbed: Path) -> None:
    config = load_checkpoint(undisturbed).network.config
    scaled = IMAGES.pixels[:500].astype(np.float64) / 255
    assert config.mean == pytest.approx(scaled.mean(), abs=0.5e-4)
    assert config.std == pytest.approx(scaled.std(), abs=0.5e-4)
    assert config.mean == round(config.mean, 4)


def test_the_checkpoint_records_recipe_seed_data_and_rates(undisturbed: Path) -> None:
    checkpoint = load_checkpoint(undisturbed)
    assert checkpoint.training == {
        "dataset": "mnist",
        "recipe": {
            "epochs": 4,
            "batch_size": 25,
            "learning_rate": 0.003,
            "weight_decay": 0.02,
            "dropout": [0.2, 0.2, 0.2],
            "label_smoothing": 0.0,
            "rotation": 12.0,
            "scale": 0.15,
            "shear": 0.15,
            "shift": 1.5,
            "elastic": 1.2,
            "relax": 0.15,
            "averaging": 0.9,
            "validation_images": 100,
        },
        "dropout_rates": [0.2, 0.2, 0.2],  # as given
        "seed": 0,
        "data_md5": {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        },
    }
    assert checkpoint.network.config.dropout_rates == (51 / 256,) * 3  # as rounded and served


def test_options_are_recorded_where_they_are_on(output: Path) -> None:
    """Off, they leave the recipes and bytes of checkpoints made before they existed."""
    config = replace(TINY, epochs=1, max_norm=2.0)
    recipe = run(output, config).training["recipe"]
    plain = run(output.with_name("plain"), replace(config, max_norm=0.0)).training["recipe"]
    assert recipe == {**plain, "max_norm": 2.0}
    message = refusal(output, replace(config, max_norm=0.0), resume=True)
    assert "other settings (max_norm)" in message


def test_the_network_served_at_other_rates_was_trained_at_those_given(output: Path) -> None:
    config = replace(TINY, epochs=1, dropout=(0.3, 0.0, 0.1))
    checkpoint = run(output, config)
    assert checkpoint.network.config.dropout_rates == (77 / 256, 0.0, 26 / 256)
    assert checkpoint.training["dropout_rates"] == [0.3, 0.0, 0.1]


def test_a_run_leaves_its_checkpoint_and_history_and_nothing_else(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.parent.iterdir()}
    assert names == {"net.safetensors", "net.safetensors.history.jsonl"}


def test_the_history_has_a_row_per_epoch(undisturbed: Path) -> None:
    rows = read_history(undisturbed)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row.keys() == {
            "epoch",
            "train_loss",
            "train_accuracy",
            "validation_loss",
            "validation_accuracy",
            "seconds",
        }
        assert 0 <= row["train_accuracy"] <= 1
    validation = load_checkpoint(undisturbed).metrics["validation"]
    assert rows[-1]["validation_loss"] == validation["nll"]
    assert rows[-1]["validation_accuracy"] == 1 - validation["error"]


def test_progress_names_losses_and_accuracies(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(output, replace(TINY, epochs=1))
    shown = "".join(capsys.readouterr())
    (row,) = read_history(output)
    loss, accuracy = f"loss {row['train_loss']:.4f}", f"accuracy {row['train_accuracy']:.4f}"
    assert f"training, dropout on: {loss} {accuracy}" in shown
    loss, accuracy = (f"{name} {row[f'validation_{name}']:.4f}" for name in ("loss", "accuracy"))
    assert f"validation, dropout off: {loss} {accuracy}" in shown
    assert "1/1" in shown


# The same bytes


def test_the_same_seed_gives_the_same_file(output: Path, undisturbed: Path) -> None:
    torch.manual_seed(1234)  # the state of the global generators does not matter
    np.random.seed(1234)
    run(output)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert without_seconds(read_history(output)) == without_seconds(read_history(undisturbed))


SHORT = replace(TINY, epochs=2)


@pytest.fixture(scope="module")
def short_weights(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> list[Floats]:
    """The weights that two epochs of the tiny recipe end with."""
    return weights_of(run(tmp_path_factory.mktemp("short") / "net", SHORT))


def weights_of(checkpoint: Checkpoint) -> list[Floats]:
    return [layer.weight for layer in checkpoint.network.layers]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 3),
        ("batch_size", 20),
        ("learning_rate", 0.002),
        ("weight_decay", 0.1),
        ("dropout", (0.2, 0.2, 0.3)),
        ("label_smoothing", 0.1),
        ("rotation", 6.0),
        ("scale", 0.1),
        ("shear", 0.1),
        ("shift", 1.0),
        ("elastic", 0.0),
        ("relax", 1.0),
        ("averaging", 0.8),
        ("validation_images", 125),
        ("seed", 1),
        ("l1", 1e-3),
        ("l2", 1e-2),
        ("max_norm", 1.0),
        ("input_dropout", 0.1),
        ("optimiser", "sgd"),
        ("precision", "bfloat16"),
        ("schedule", "constant"),
        ("initialisation", "glorot"),
        ("activation", "linear"),
        ("normalisation", "none"),
        ("augmentation", 0.5),
        ("outliers", 0.4),
        ("corruption", 0.5),
        ("training_images", 250),
    ],
)
def test_every_setting_changes_the_weights(
    output: Path, short_weights: list[Floats], setting: str, value: Any
) -> None:
    weights = weights_of(run(output, replace(SHORT, **{setting: value})))
    assert len(weights) == len(short_weights) == 4
    assert not np.array_equal(weights[3], short_weights[3])


def test_the_settings_above_are_all_there_are() -> None:
    (mark,) = test_every_setting_changes_the_weights.pytestmark
    # The others change nothing by themselves; see test_optimisation.py and test_distil.py;
    # relax_to shows only where the augmentation fades, see test_augmentation.py, and what concerns
    # outliers only where there are some, see below, test_optimisation.py and test_pool.py.
    above = {setting for setting, _ in mark.args[1]}
    above |= {"momentum", "patience", "relax_to", "outlier_weight", "disagreement"}
    above |= {"outlier_passes", "plain_outlier_weight", "pool_share"}
    above |= {"network"}  # see test_lenet.py
    assert above == asdict(TINY).keys() - TEACHER_SETTINGS


# Dropout and the learning rate


def test_every_image_of_a_run_has_dropout_masks_of_its_own(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of the mask generator are counted through the run; a run's seed keys it."""
    drawn: list[tuple[int, range]] = []

    def draw_and_record(sites: Sequence[DropoutSite], passes: Passes, start: int) -> KeepMasks:
        drawn.append((passes.seed, range(start, passes.count)))
        return draw_masks(sites, passes, start)

    monkeypatch.setattr(training.train, "draw_masks", draw_and_record)
    run(output, SHORT)
    assert [number for _, numbers in drawn for number in numbers] == list(range(2 * 20 * 25))
    (seed,) = {seed for seed, _ in drawn}
    drawn.clear()
    run(output.with_name("other"), replace(SHORT, epochs=1, seed=1))
    assert seed not in {seed for seed, _ in drawn}


def test_the_learning_rate_rises_to_its_maximum_and_falls_to_almost_0(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = []

    def train_and_record(run: Run, *arguments: Any) -> tuple[float, float]:
        rates.append(run.optimizer.param_groups[0]["lr"])
        scores = train_epoch(run, *arguments)
        rates.append(run.optimizer.param_groups[0]["lr"])
        return scores

    monkeypatch.setattr(training.train, "train_epoch", train_and_record)
    run(output)
    # A 25th at first; the maximum a fifth of the way on, in the first of the four epochs.
    first, *after_each_epoch = rates[0], *rates[1::2]
    assert first == pytest.approx(TINY.learning_rate / 25)
    assert after_each_epoch == sorted(after_each_epoch, reverse=True)
    assert 0.9 * TINY.learning_rate < after_each_epoch[0] <= TINY.learning_rate
    assert 0 < after_each_epoch[-1] < 0.01 * TINY.learning_rate


# Outliers


# Batches of 25 digits and 10 outliers.
WITH_OUTLIERS = replace(TINY, outliers=0.4)


def mean_entropy(checkpoint: Checkpoint) -> float:
    """Of the answers to outliers, nats."""
    pixels = make_unfamiliar(IMAGES, 50, 7, SHOWN)
    with torch.inference_mode():
        network = TrainableMLP.from_network(checkpoint.network)
        x = torch.from_numpy(normalise(pixels, network.config))
        probs = network(x).softmax(dim=1)
        return float(-(probs * probs.log()).sum(dim=1).mean())


def test_a_training_goes_on_from_a_checkpoints_weights(tmp_path: Path) -> None:
    train(TINY, IMAGES, tmp_path / "first", device=CPU, on_epoch=lambda row: None)
    first = load_checkpoint(tmp_path / "first")
    config = replace(TINY, dropout=(0.25, 0.0, 0.5), seed=5, normalisation="none")
    begun = start(config, IMAGES, CPU, first).network.to_network()
    assert begun.config == replace(first.network.config, dropout_rates=(0.25, 0.0, 0.5))
    for one, other in zip(begun.layers, first.network.layers, strict=True):
        assert np.array_equal(one.weight, other.weight)
        assert np.array_equal(one.bias, other.bias)

    output = tmp_path / "second"
    made = train(config, IMAGES, output, device=CPU, initial=first, on_epoch=lambda row: None)
    recorded = made.training["recipe"]["initial"]
    assert recorded["version"] == first.version
    assert recorded["recipe"] == first.training["recipe"]
    assert made.version != first.version


def test_without_dropout_a_step_follows_the_gradient_of_both_losses() -> None:
    config = replace(
        WITH_OUTLIERS, dropout=(0.0, 0.0, 0.0), optimiser="sgd", schedule="constant",
        learning_rate=0.1, weight_decay=0.0, outlier_weight=0.7, averaging=0.0,
    )  # fmt: skip
    B, M = 25, 10
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(B, 28, 28, generator=generator) * 255
    outliers = torch.rand(M, 28, 28, generator=generator) * 255
    labels = torch.arange(B) % 10
    images = Images(pixels.round().to(torch.uint8).numpy(), labels.numpy())
    run = start(config, images, CPU)

    network = run.network
    network.zero_grad()
    digits, others = (network.answer(x).softmax(dim=1) for x in (pixels, outliers))
    loss = -digits[torch.arange(B), labels].log().mean() - 0.7 * others.log().sum() / (M * 10)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = []
    for parameter in network.parameters():
        assert parameter.grad is not None
        expected.append(parameter.detach() - 0.1 * parameter.grad)

    train_epoch(run, config, Epoch(pixels, labels, outliers=outliers))
    for parameter, wanted in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), wanted)


def test_products_in_half_precision_are_those_in_single_precision_rounded() -> None:
    config = replace(WITH_OUTLIERS, plain_outlier_weight=0.1)
    pixels, labels = torch.from_numpy(IMAGES.pixels[:25]), torch.from_numpy(IMAGES.labels[:25])
    gradients = []
    for precision in ("float32", "bfloat16"):
        settings = replace(config, precision=precision)
        run = start(settings, IMAGES, CPU)
        train_epoch(run, settings, Epoch(pixels, labels, outliers=pixels[:10]))
        gradients.append([each.grad for each in run.network.parameters() if each.grad is not None])
    for single, half in zip(*gradients, strict=True):
        assert single.dtype == half.dtype == torch.float32
        assert 0 < (single - half).norm() < 0.1 * single.norm()


def test_the_passes_of_an_outlier_have_masks_of_their_own_and_digits_one_each() -> None:
    config = replace(WITH_OUTLIERS, disagreement=1.0, outlier_passes=3)
    pixels, labels = torch.from_numpy(IMAGES.pixels[:50]), torch.from_numpy(IMAGES.labels[:50])
    run = start(config, IMAGES, CPU)
    steps = list(batches(run, config, Epoch(pixels, labels, outliers=pixels[:20])))
    for x, passes, masks, *_ in steps:
        assert len(x) == 35
        assert passes.tolist() == [*range(25), *3 * list(range(25, 35))]
        assert [len(mask) for mask in masks] == 3 * [len(passes)]
    drawn = {mask.numpy().tobytes() for _, _, masks, *_ in steps for mask in masks[0]}
    assert len(drawn) == 2 * 55


def disagreement_of(checkpoint: Checkpoint) -> tuple[float, float]:
    """Mutual information and predictive entropy of outliers, means over 100 of them."""
    pixels = make_unfamiliar(IMAGES, 20, 7, SHOWN)
    answers = sample_all(build_engine(checkpoint.network), pixels, passes=20, seed=0)
    return float(answers.mutual_information.mean()), float(answers.predictive_entropy.mean())


@pytest.mark.slow
def test_passes_disagree_about_outliers_if_they_are_trained_to(tmp_path: Path) -> None:
    alike = run(tmp_path / "alike.safetensors", replace(WITH_OUTLIERS, epochs=12))
    config = replace(WITH_OUTLIERS, epochs=12, disagreement=1.5, dropout=(0.3, 0.3, 0.3))
    apart = run(tmp_path / "apart.safetensors", config)
    assert disagreement_of(apart)[0] > disagreement_of(alike)[0] + 0.3
    assert disagreement_of(apart)[1] > 0.5 * np.log(10)
    assert apart.metrics["validation"]["error"] < 0.2


def test_a_run_of_one_epoch_is_not_the_average_of_its_random_beginning(output: Path) -> None:
    config = replace(TINY, epochs=2, averaging=0.999)
    assert run(output, config).metrics["validation"]["error"] < 0.2  # all but chance without


@pytest.mark.slow
def test_a_network_that_was_shown_outliers_is_uncertain_about_them(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain.safetensors", replace(TINY, epochs=8))
    shown = run(tmp_path / "shown.safetensors", replace(WITH_OUTLIERS, epochs=8))
    assert mean_entropy(shown) > mean_entropy(plain) + 0.3
    assert mean_entropy(shown) > 0.6 * np.log(10)
    assert shown.metrics["validation"]["error"] < 0.2


# Images


def test_training_images_are_the_first_ones(output: Path) -> None:
    """Of 600 images with 100 held out, the first 50: the images between are not used."""
    config = replace(TINY, epochs=1, training_images=50)
    run(output, config)
    blank = Images(IMAGES.pixels.copy(), IMAGES.labels)
    blank.pixels[50:500] = 0
    other = output.with_name("other")
    train(config, blank, other, device=CPU)
    assert output.read_bytes() == other.read_bytes()


def test_fewer_training_images_than_a_batch_are_refused(output: Path) -> None:
    with pytest.raises(TrainingError, match="lower --batch-size"):
        run(output, replace(TINY, training_images=24))


def test_too_few_images_are_refused(output: Path) -> None:
    with pytest.raises(TrainingError, match="lower --validation-images"):
        run(output, replace(TINY, validation_images=580))
    assert list(output.parent.iterdir()) == []


def test_a_run_that_diverges_says_what_to_lower(output: Path) -> None:
    diverging = replace(TINY, optimiser="sgd", momentum=0.9, learning_rate=10.0)
    with pytest.raises(TrainingError, match=r"infinite in epoch \d: lower --learning-rate"):
        run(output, diverging)
    assert not output.exists()


def test_missing_folders_of_the_output_are_made(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "net"
    run(output, replace(TINY, epochs=1))
    assert output.is_file()
