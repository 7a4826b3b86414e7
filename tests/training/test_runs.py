"""Interrupted runs: resumed, killed, refused; the end has the bytes of an undisturbed run."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import training.runs
import training.train
from model.checkpoint import load_checkpoint
from tests.conftest import ROOT
from tests.training.kill_and_resume import Run, kill_and_resume
from tests.training.patterns import (
    CPU,
    IMAGES,
    TINY,
    assert_as_undisturbed,
    read_history,
    refusal,
    run,
)
from training.errors import TrainingError
from training.runs import RunFiles, require_writable
from training.train import evaluate_network, train

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


# Where `train` finds the functions that the tests interrupt.
PLACES = {
    "evaluate_network": training.train,
    "save_checkpoint": training.train,
    "write_atomically": training.runs,
}


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
        original = getattr(PLACES[function], function)
        patched.setattr(PLACES[function], function, Interrupt(original, at_call, after=after))
        with pytest.raises(KeyboardInterrupt):
            run(output, resume=resume)


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


def test_a_run_interrupted_twice_ends_as_an_undisturbed_one(
    output: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(output, monkeypatch, "evaluate_network", 2)
    interrupt(output, monkeypatch, "write_atomically", 2, resume=True)
    run(output, resume=True)
    assert_as_undisturbed(output, undisturbed)


# Stops before the third epoch is saved, says so, and waits for its end.
_WAITING_RUN = """
import sys
from pathlib import Path
import torch
import training.train
from tests.training.patterns import run

torch.set_num_threads(1)
evaluate, calls = training.train.evaluate_network, []

def evaluate_or_wait(*arguments):
    calls.append(arguments)
    if len(calls) == 3:
        print("waiting", flush=True)
        sys.stdin.read()
    return evaluate(*arguments)

training.train.evaluate_network = evaluate_or_wait
run(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_as_an_undisturbed_one(
    output: Path, undisturbed: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WAITING_RUN, str(output)],
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


@pytest.mark.parametrize("recipe", ["mnist-plain", "mnist"])
def test_five_epochs_of_a_committed_network_are_the_same_bytes_again(
    recipe: str, mnist_folder: Path, tmp_path: Path
) -> None:
    folder = os.environ.get("DROPSERVE_RUNS_DIR")
    if folder is None:
        pytest.skip("takes minutes; DROPSERVE_RUNS_DIR names the folder with the runs/ to do it")
    run_of_five = Run.of_recipe(recipe, 5, Path(folder), mnist_folder)
    outcome = kill_and_resume(tmp_path, kills=1, seed=0, run=run_of_five)
    assert outcome.is_same
    network = load_checkpoint(tmp_path / "killed" / "net.safetensors")
    assert network.metrics["validation"]["error"] < 0.1


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


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    require_writable(tmp_path / "new" / "net.safetensors")
    with pytest.raises(TrainingError, match=r"new cannot be written; choose another --output"):
        run(tmp_path / "new")  # a folder
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        require_writable(tmp_path / "file" / "folder" / "net.safetensors")
