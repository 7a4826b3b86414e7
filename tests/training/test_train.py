"""The recipe on ten made-up patterns: it learns, repeats its bytes, and survives interruptions."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import training.train
from model.checkpoint import Checkpoint, load_checkpoint
from model.network import MLPConfig
from model.sampling.masks import draw_masks
from tests.training.kill_and_resume import kill_and_resume
from tests.training.patterns import CPU, IMAGES, TINY, read_history, run
from training.config import TrainConfig
from training.data import Images
from training.epochs import Epoch, FreshImages, augmentation_strength, make_epochs
from training.errors import TrainingError
from training.train import (
    TEACHER_SETTINGS,
    Run,
    RunFiles,
    _train_epoch,
    evaluate_network,
    train,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the command line sets it: the number of threads changes the low bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def without_seconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The checkpoint of a run from beginning to end; nobody writes to it."""
    output = tmp_path_factory.mktemp("undisturbed") / "net.safetensors"
    run(output)
    return output


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


class Interrupt:
    """Calls a function, and at one of its calls interrupts the program, as Ctrl-C does."""

    def __init__(self, function: Callable[..., Any], at_call: int, *, after: bool = False) -> None:
        self.function = function
        self.calls_left = at_call
        self.after = after

    def __call__(self, *arguments: Any) -> Any:
        self.calls_left -= 1
        if self.calls_left == 0 and not self.after:
            raise KeyboardInterrupt
        result = self.function(*arguments)
        if self.calls_left == 0:
            raise KeyboardInterrupt
        return result


def interrupt(
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    at_call: int,
    *,
    after: bool = False,
    resume: bool = False,
) -> None:
    with monkeypatch.context() as patched:
        original = getattr(training.train, function)
        patched.setattr(training.train, function, Interrupt(original, at_call, after=after))
        with pytest.raises(KeyboardInterrupt):
            run(output, resume=resume)


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
    scores = evaluate_network(checkpoint.network, IMAGES[500:])
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
        "dropout_rates": [0.2, 0.2, 0.2],  # as asked
        "seed": 0,
        "data_md5": {
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        },
    }
    assert checkpoint.network.config.dropout_rates == (51 / 256,) * 3  # as rounded and served


def test_options_are_recorded_where_they_are_on(output: Path) -> None:
    """Off they leave the recipe, and so the bytes, of checkpoints made before they existed."""
    config = replace(TINY, epochs=1, max_norm=2.0)
    recipe = run(output, config).training["recipe"]
    plain = run(output.with_name("plain"), replace(config, max_norm=0.0)).training["recipe"]
    assert recipe == {**plain, "max_norm": 2.0}
    message = refusal(output, replace(config, max_norm=0.0), resume=True)
    assert "other settings (max_norm)" in message


def test_the_network_served_at_other_rates_was_trained_at_those_asked_for(output: Path) -> None:
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
    assert f"train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:.4f}" in shown
    assert f"loss {row['validation_loss']:.4f} accuracy {row['validation_accuracy']:.4f}" in shown
    assert "1/1" in shown


# The same bytes


def test_the_same_seed_gives_the_same_file(output: Path, undisturbed: Path) -> None:
    torch.manual_seed(1234)  # where the global generators stand is no part of a run
    np.random.seed(1234)
    run(output)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert without_seconds(read_history(output)) == without_seconds(read_history(undisturbed))


SHORT = replace(TINY, epochs=2)


@pytest.fixture(scope="module")
def short_weights(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Tensor]:
    """The weights that two epochs of the tiny recipe end with."""
    return weights_of(run(tmp_path_factory.mktemp("short") / "net", SHORT))


def weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return dict(checkpoint.network.state_dict())


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
        ("schedule", "constant"),
        ("initialisation", "glorot"),
        ("activation", "linear"),
        ("normalisation", "none"),
        ("augmentation", 0.5),
        ("outliers", 0.4),
        ("training_images", 250),
    ],
)
def test_every_setting_changes_the_weights(
    output: Path, short_weights: dict[str, Tensor], setting: str, value: Any
) -> None:
    weights = weights_of(run(output, replace(SHORT, **{setting: value})))
    assert weights.keys() == short_weights.keys()
    assert not torch.equal(weights["layers.3.weight"], short_weights["layers.3.weight"])


def test_the_settings_above_are_all_there_are() -> None:
    (mark,) = test_every_setting_changes_the_weights.pytestmark
    # The others change nothing by themselves; see test_optimisation.py, test_regularisers.py and
    # test_teacher.py; relax_to shows only where the augmentation fades, see the test of that, and
    # outlier_weight only where there are outliers, see test_outliers.py.
    above = {setting for setting, _ in mark.args[1]}
    above |= {"momentum", "patience", "relax_to", "outlier_weight"}
    assert above == asdict(TINY).keys() - TEACHER_SETTINGS


# The order of the images


def epochs_of(config: TrainConfig, images: Images = IMAGES, first: int = 0) -> Iterator[Epoch]:
    return make_epochs(FreshImages(config, images), first, config.epochs, CPU)


def test_every_epoch_shows_each_image_once_in_an_order_of_its_own() -> None:
    count = 250
    # Uniform images whose brightness tells which they are, undistorted.
    brightness = np.arange(count, dtype=np.uint8)
    pixels = np.broadcast_to(brightness[:, None, None], (count, 28, 28)).copy()
    images = Images(pixels, np.arange(count))
    plain = replace(TINY, epochs=3, rotation=0.0, scale=0.0, shear=0.0, shift=0.0, elastic=0.0)
    orders = []
    for x, labels, *_ in epochs_of(plain, images):
        assert sorted(labels.tolist()) == list(range(count))
        torch.testing.assert_close(x[:, 14, 14], labels.float(), rtol=0, atol=0.01)
        orders.append(tuple(labels.tolist()))
    assert len({tuple(range(count)), *orders}) == 4


def test_another_seed_shows_the_images_in_another_order() -> None:
    orders = [next(epochs_of(replace(TINY, seed=seed))).labels for seed in (0, 1)]
    assert not torch.equal(*orders)


def test_epochs_that_are_resumed_are_those_that_were_missed() -> None:
    whole = list(epochs_of(TINY))
    rest = list(epochs_of(TINY, first=2))
    assert len(rest) == 2
    for (x, labels, *_), (rest_x, rest_labels, *_) in zip(whole[2:], rest, strict=True):
        assert torch.equal(x, rest_x)
        assert torch.equal(labels, rest_labels)


def test_the_augmentation_fades_over_the_last_epochs() -> None:
    config = replace(TINY, epochs=10, relax=0.4)
    strengths = [augmentation_strength(config, epoch) for epoch in range(10)]
    assert strengths[:7] == [1.0] * 7
    assert strengths[7:] == pytest.approx([0.75, 0.5, 0.25])
    assert augmentation_strength(replace(config, relax=0.0), 9) == 1
    above_half = [augmentation_strength(replace(config, relax_to=0.5), epoch) for epoch in (6, 9)]
    assert above_half == pytest.approx([1, 0.625])


def test_every_image_of_a_run_has_dropout_masks_of_its_own(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of the mask generator are counted through the run; a run's seed keys it."""
    drawn: list[tuple[int, range]] = []

    def draw_and_record(
        config: MLPConfig, seed: int, passes: int, *, first_pass: int
    ) -> list[Tensor]:
        drawn.append((seed, range(first_pass, first_pass + passes)))
        return draw_masks(config, seed, passes, first_pass=first_pass)

    monkeypatch.setattr(training.train, "draw_masks", draw_and_record)
    run(output, SHORT)
    assert [number for _, passes in drawn for number in passes] == list(range(2 * 20 * 25))
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
        scores = _train_epoch(run, *arguments)
        rates.append(run.optimizer.param_groups[0]["lr"])
        return scores

    monkeypatch.setattr(training.train, "_train_epoch", train_and_record)
    run(output)
    # A 25th at first; the maximum a fifth of the way on, in the first of the four epochs.
    first, *after_each_epoch = rates[0], *rates[1::2]
    assert first == pytest.approx(TINY.learning_rate / 25)
    assert after_each_epoch == sorted(after_each_epoch, reverse=True)
    assert 0.9 * TINY.learning_rate < after_each_epoch[0] <= TINY.learning_rate
    assert 0 < after_each_epoch[-1] < 0.01 * TINY.learning_rate


# Interruption


@pytest.mark.parametrize(
    ("function", "at_call", "after", "epochs_saved"),
    [
        pytest.param("evaluate_network", 1, False, 0, id="in the first epoch"),
        pytest.param("evaluate_network", 3, False, 2, id="in the third epoch"),
        pytest.param("write_atomically", 3, False, 2, id="between history and state"),
        pytest.param("write_atomically", 3, True, 3, id="after an epoch"),
        pytest.param("save_checkpoint", 1, False, 4, id="before the checkpoint"),
        pytest.param("save_checkpoint", 1, True, 4, id="after the checkpoint"),
    ],
)
def test_an_interrupted_and_resumed_run_ends_as_an_undisturbed_one(
    output: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    at_call: int,
    after: bool,
    epochs_saved: int,
) -> None:
    interrupt(output, monkeypatch, function, at_call, after=after)
    assert RunFiles(output).state.exists() == (epochs_saved > 0)
    torch.manual_seed(99)
    evaluated = Interrupt(evaluate_network, at_call=-1)
    with monkeypatch.context() as patched:
        patched.setattr(training.train, "evaluate_network", evaluated)
        run(output, resume=True)
    # Each epoch that was left, and the final score: finished ones are not trained again.
    assert -1 - evaluated.calls_left == 4 - epochs_saved + 1
    assert_as_undisturbed(output, undisturbed)


def assert_as_undisturbed(output: Path, undisturbed: Path) -> None:
    assert output.read_bytes() == undisturbed.read_bytes()
    assert without_seconds(read_history(output)) == without_seconds(read_history(undisturbed))
    assert {path.name for path in output.parent.iterdir()} == {
        "net.safetensors",
        "net.safetensors.history.jsonl",
    }


def test_a_run_interrupted_twice_ends_as_an_undisturbed_one(
    output: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(output, monkeypatch, "evaluate_network", 2)
    interrupt(output, monkeypatch, "write_atomically", 2, resume=True)
    run(output, resume=True)
    assert_as_undisturbed(output, undisturbed)


# Stops before the third epoch is saved, says so, and waits for its end.
_WAITING_RUN = """
import json, sys
from pathlib import Path
import numpy as np
import torch
import training.train
from training.config import TrainConfig
from training.data import Images

output, arrays, settings = sys.argv[1:]
torch.set_num_threads(1)
evaluate, calls = training.train.evaluate_network, []

def evaluate_or_wait(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        print("waiting", flush=True)
        sys.stdin.read()
    return evaluate(*arguments)

training.train.evaluate_network = evaluate_or_wait
config = json.loads(settings)
config["dropout"] = tuple(config["dropout"])
loaded = np.load(arrays)
images = Images(loaded["pixels"], loaded["labels"])
training.train.train(
    TrainConfig(**config), images, Path(output), device=torch.device("cpu"), resume=False
)
"""


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_as_an_undisturbed_one(
    output: Path, undisturbed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    arrays = tmp_path_factory.mktemp("images") / "images.npz"
    np.savez(arrays, pixels=IMAGES.pixels, labels=IMAGES.labels)
    command = [sys.executable, "-c", _WAITING_RUN, str(output), str(arrays)]
    with subprocess.Popen(
        [*command, json.dumps(asdict(TINY))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert any(line == "waiting\n" for line in process.stdout)
        finally:
            process.kill()
    assert process.returncode == -9
    assert not output.exists()
    assert len(read_history(output)) == 2
    run(output, resume=True)
    assert_as_undisturbed(output, undisturbed)


@pytest.mark.slow
def test_kills_at_random_moments_leave_a_whole_checkpoint_and_the_same_end(tmp_path: Path) -> None:
    outcome = kill_and_resume(tmp_path, kills=2, seed=0)
    assert outcome.kills == 2
    assert outcome.loads > 0
    assert outcome.is_same
    assert outcome.files == {"net.safetensors", "net.safetensors.history.jsonl"}


def test_a_half_written_state_of_a_killed_run_is_cleared_away(output: Path) -> None:
    abandoned = output.with_name(f".{RunFiles(output).state.name}.abc123")
    somebody_elses = output.with_name(".other.safetensors.state.abc123")
    for path in (abandoned, somebody_elses):
        path.write_bytes(b"half")
    run(output)
    assert not abandoned.exists()
    assert somebody_elses.exists()


def test_resume_begins_where_there_is_no_run(output: Path, undisturbed: Path) -> None:
    run(output, resume=True)
    assert_as_undisturbed(output, undisturbed)


def test_resuming_a_finished_run_returns_it_untrained(output: Path, undisturbed: Path) -> None:
    output.write_bytes(undisturbed.read_bytes())
    # Nothing could be trained on no images.
    checkpoint = train(TINY, IMAGES[:0], output, device=CPU, resume=True)
    assert checkpoint.version == load_checkpoint(undisturbed).version
    assert output.read_bytes() == undisturbed.read_bytes()


def refusal(output: Path, config: TrainConfig = TINY, *, resume: bool) -> str:
    """The message of the refusal: one line that names the run, which stays as it was."""
    before = {path: path.read_bytes() for path in output.parent.iterdir()}
    with pytest.raises(TrainingError) as caught:
        run(output, config, resume=resume)
    assert {path: path.read_bytes() for path in output.parent.iterdir()} == before
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(output) in message
    return message


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 0.5}, "learning_rate"),
        ({"seed": 1}, "seed"),
        ({"dropout": (0.2, 0.2, 0.3)}, "dropout"),
        ({"epochs": 5, "batch_size": 50}, "batch_size, epochs"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_resuming_with_other_settings_is_refused_and_names_them(
    output: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    finished: bool,
    changes: dict[str, Any],
    named: str,
) -> None:
    if finished:
        output.write_bytes(undisturbed.read_bytes())
    else:
        interrupt(output, monkeypatch, "evaluate_network", 2)
    message = refusal(output, replace(TINY, **changes), resume=True)
    assert f"has other settings ({named}): repeat them" in message


def test_an_unfinished_run_is_not_overwritten_without_resume(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(output, monkeypatch, "evaluate_network", 2)
    message = refusal(output, resume=False)
    assert f"add --resume to continue it, or delete {RunFiles(output).state}" in message


def test_a_finished_run_is_trained_anew_without_resume(output: Path, undisturbed: Path) -> None:
    output.write_bytes(undisturbed.read_bytes())
    RunFiles(output).history.write_bytes(RunFiles(undisturbed).history.read_bytes())
    run(output, replace(TINY, epochs=1))
    assert output.read_bytes() != undisturbed.read_bytes()
    assert len(read_history(output)) == 1


def test_resuming_what_is_no_checkpoint_is_refused(output: Path) -> None:
    output.write_bytes(b"something else")
    assert "is no finished run" in refusal(output, resume=True)


def test_a_run_that_diverges_says_what_to_lower(output: Path) -> None:
    diverging = replace(TINY, optimiser="sgd", momentum=0.9, learning_rate=10.0)
    with pytest.raises(TrainingError, match=r"infinite in epoch \d: lower --learning-rate"):
        run(output, diverging)
    assert not output.exists()


def test_too_few_images_are_refused(output: Path) -> None:
    with pytest.raises(TrainingError, match="lower --validation-images"):
        run(output, replace(TINY, validation_images=580))
    assert list(output.parent.iterdir()) == []


def test_missing_folders_of_the_output_are_made(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b" / "net"
    run(output, replace(TINY, epochs=1))
    assert output.is_file()
