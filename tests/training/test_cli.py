"""`dropserve-train` and `python -m training`: help, options and how failures look."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import training.data
import training.evaluate
import training.experiments.grid
import training.train
from model.checkpoint import Checkpoint, save_checkpoint
from model.errors import CheckpointError
from model.network import MLPConfig
from tests.conftest import ROOT
from training.cli import main
from training.config import CompareOptions, Experiment, TrainConfig
from training.data import KMNIST, MNIST
from training.experiments import compare, regularisers, sweep
from training.network import TrainableMLP


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No data folder from outside, help on one line, and torch's threads as they were."""
    monkeypatch.delenv("DROPSERVE_DATA_DIR", raising=False)
    monkeypatch.setenv("COLUMNS", "500")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


class Recorder:
    """Stands for `train` and keeps what it was called with."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure
        self.arguments: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **options: Any) -> object:
        self.arguments, self.options = arguments, options
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(version="0123456789ab", metrics={"validation": {"error": 0.0125}})


def record(monkeypatch: pytest.MonkeyPatch, failure: BaseException | None = None) -> Recorder:
    recorder = Recorder(failure)
    monkeypatch.setattr(training.train, "train", recorder)
    monkeypatch.setattr(
        training.data, "load_images", lambda split, data_dir, *dataset: (split, data_dir, *dataset)
    )
    return recorder


def test_the_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "train a network and save its checkpoint" in out
    assert "measure a checkpoint on the test images" in out


@pytest.mark.parametrize("field", fields(TrainConfig), ids=lambda field: str(field.name))
def test_every_setting_is_an_option_with_its_help_and_default(
    field: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "--help") == 0
    option = f"--{field.name.replace('_', '-')} "
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    # With a long name argparse puts the help on the line below.
    place = next(number for number, line in enumerate(lines) if line.startswith(option))
    text = " ".join(lines[place : place + 2])
    default = "" if field.default == () else f" (default: {field.default})"  # the help has it
    assert f"{field.metadata['help']}{default}" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [[], ["train"], ["calibrate"], ["evaluate"], ["compare"], ["regularisers"], ["sweep"]],
)
def test_help_never_imports_torch(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    finished = subprocess.run(
        [sys.executable, "-m", "training", *arguments, "--help"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("usage: dropserve-train")


@pytest.mark.slow
def test_a_bad_data_folder_is_one_line_and_exit_code_1_from_the_shell(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "training", "train", "--data-dir", str(tmp_path / "nowhere")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (finished.returncode, finished.stdout) == (1, "")
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"dropserve-train: {tmp_path / 'nowhere'} has no train-images")


@pytest.mark.parametrize("command", ["train", "calibrate", "evaluate"])
def test_a_bad_data_folder_is_one_line_and_exit_code_1(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [command, "--data-dir", str(tmp_path)]
    if command != "train":
        checkpoint = tmp_path / "net.safetensors"
        training = {"dataset": "mnist", "recipe": {"validation_images": 10}}
        save_checkpoint(
            checkpoint, Checkpoint(TrainableMLP(MLPConfig()).to_network(), training=training)
        )
        arguments += ["--checkpoint", str(checkpoint)]
    assert run(*arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"dropserve-train: {tmp_path} has no ")


def test_every_setting_reaches_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder = record(monkeypatch)
    wanted = TrainConfig(
        epochs=3,
        batch_size=7,
        learning_rate=0.5,
        weight_decay=0.25,
        dropout=(0.1, 0.2, 0.3),
        label_smoothing=0.0625,
        rotation=1.0,
        scale=0.5,
        shear=1.5,
        shift=4.0,
        elastic=5.0,
        relax=0.75,
        relax_to=0.25,
        averaging=0.875,
        validation_images=11,
        views=12,
        distillation_weight=0.5,
        distillation_temperature=3.0,
        seed=13,
        l1=0.125,
        l2=0.0625,
        max_norm=3.5,
        input_dropout=0.375,
        patience=17,
        optimiser="sgd",
        precision="bfloat16",
        momentum=0.5,
        schedule="constant",
        initialisation="glorot",
        activation="linear",
        normalisation="none",
        augmentation=0.75,
        training_images=19,
        outliers=1.5,
        outlier_weight=0.25,
        disagreement=1.5,
        outlier_passes=3,
        plain_outlier_weight=0.125,
        pool_share=0.5,
        corruption=0.1875,
        network="lenet",
    )
    arguments = []
    for field in fields(TrainConfig):
        value = getattr(wanted, field.name)
        assert value != field.default, f"{field.name} would not show"
        values = value if isinstance(value, tuple) else (value,)
        arguments += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    output, data_dir = tmp_path / "net", tmp_path / "data"
    places = ["--output", str(output), "--data-dir", str(data_dir), "--device", "cpu"]
    assert run("train", *arguments, *places, "--resume") == 0
    assert recorder.arguments == (wanted, ("train", data_dir, MNIST), output)
    files = dict.fromkeys(("teacher", "pool", "initial"))
    expected = {"device": torch.device("cpu"), "resume": True, **files}
    assert recorder.options == expected


def test_without_options_the_run_has_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(monkeypatch)
    assert run("train") == 0
    config, images, output = recorder.arguments
    assert config == TrainConfig()
    assert images == ("train", None, MNIST)
    assert output == Path("runs/mnist.safetensors")
    assert recorder.options["resume"] is False


def test_another_data_set_reaches_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = record(monkeypatch)
    assert run("train", "--dataset", "kmnist") == 0
    assert recorder.arguments[1] == ("train", None, KMNIST)


@pytest.mark.parametrize("others", [[], ["--outliers", "0.5", "--dataset", "kmnist"]])
def test_a_pool_without_outliers_of_digits_is_refused(
    others: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder = record(monkeypatch)
    assert run("train", "--pool", "pool.safetensors", *others) == 1
    assert recorder.arguments == ()
    expected = "dropserve-train: --pool is for MNIST with --outliers; leave it out, or add those\n"
    assert capsys.readouterr().err == expected


def test_the_settings_of_a_recipe_are_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "--help") == 0
    _, *groups = capsys.readouterr().out.split("\n\n")
    titled = {group.partition(":")[0].strip(): group for group in groups}
    assert " --elastic " in titled["augmentation"]
    assert " --disagreement " in titled["outliers"]
    assert " --distillation-weight " in titled["with --teacher"]
    assert " --epochs " in titled["training"]


def test_a_finished_run_prints_where_it_is_and_how_good(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(monkeypatch)
    assert run("train", "--output", "x/net.safetensors") == 0
    expected = "x/net.safetensors: version 0123456789ab, validation error 1.25%\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (PermissionError(13, "Permission denied", "/runs"), 1),
        (CheckpointError("the checkpoint x is truncated"), 2),
    ],
)
def test_a_failure_is_one_line_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failure: Exception,
    code: int,
) -> None:
    record(monkeypatch, failure)
    assert run("train") == code
    assert capsys.readouterr().err == f"dropserve-train: {failure}\n"


def test_an_interruption_says_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record(monkeypatch, KeyboardInterrupt())
    assert run("train") == 130
    expected = "dropserve-train: interrupted; add --resume to continue"
    assert capsys.readouterr().err.strip() == expected


@pytest.mark.parametrize("device", ["banana", "cpu:x", "meta:meta", "xpu:99"])
def test_a_device_that_is_not_there_is_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str
) -> None:
    recorder = record(monkeypatch)
    assert run("train", "--device", device) == 1
    assert recorder.arguments == ()
    expected = f"dropserve-train: there is no device {device} here; try --device auto\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fit"],
        ["train", "--epoch-count", "3"],
        ["train", "--epochs", "many"],
        ["train", "--dropout"],
        ["train", "--optimiser", "adagrad"],
        ["calibrate", "--name", "My model"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: dropserve-train")


@pytest.mark.parametrize(
    "options",
    [
        ("--epochs", "0"),
        ("--batch-size", "0"),
        ("--dropout", "0.2", "1.0", "0.2"),
        ("--dropout", "0.2"),
        ("--seed", "-1"),
        ("--validation-images", "0"),
        ("--learning-rate", "nan"),
        ("--input-dropout", "1"),
        ("--l1", "-0.1"),
        ("--max-norm", "-1"),
        ("--patience", "-1"),
        ("--momentum", "0.9"),  # of what is not SGD
        ("--disagreement", "2.5"),
        ("--outlier-passes", "1"),
    ],
)
def test_an_impossible_setting_is_named(
    options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", *options])

    assert ended.value.code == 1
    assert options[0] in capsys.readouterr().err


@pytest.mark.parametrize("passes", ["0", "1", "-3"])
def test_an_evaluation_needs_two_passes(passes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("evaluate", "--passes", passes) == 1
    expected = f"dropserve-train: --passes must be from 2 to 100000, not {passes}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("package", "extra"),
    [(each, "train") for each in ("sklearn", "matplotlib", "torch")]
    + [("HersheyFonts", "outliers")],
)
def test_without_its_extra_a_command_says_what_to_install(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(training.evaluate, "evaluate", refuse)
    assert run("evaluate") == 1
    expected = f"{package} is not installed; pip install 'dropserve[{extra}]'"
    assert expected in capsys.readouterr().err


# The experiments


@pytest.mark.parametrize(
    ("arguments", "seeds"),
    [(["compare", "--preset", "article"], 3), (["regularisers"], 3), (["sweep"], 2)],
)
def test_the_options_reach_the_experiment(
    arguments: list[str], seeds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    received: list[Any] = []
    for module, name in ((compare, "compare"), (regularisers, "compare_regularisers")):
        monkeypatch.setattr(module, name, lambda *given: received.append(given))
    monkeypatch.setattr(sweep, "sweep", lambda *given: received.append(given))
    options = ["--runs", str(tmp_path), "--epochs", "4", "--device", "cpu"]
    for extra in ([], ["--seeds", "7"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *options, *extra])
        assert ended.value.code == 0
    assert received[0][-1] == Experiment(None, tmp_path, Path("runs/figures"), seeds, 4, "cpu")
    assert received[1][-1].seeds == 7
    if arguments[0] == "compare":
        assert received[0][0] == CompareOptions("article")


def test_an_interrupted_command_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(experiment: Experiment) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "--device", "cpu"])
    assert ended.value.code == 130
    assert "interrupted; run it again to continue" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--seeds", "--epochs"])
def test_no_seeds_and_no_epochs_are_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sweep", option, "0"])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err
