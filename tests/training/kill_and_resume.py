"""Kills a training run with SIGKILL at random moments and resumes it, again and again.

`python -m tests.training.kill_and_resume` prints the result. The end must have the bytes of a run
that nobody disturbed, and the checkpoint on disk must load at every moment.

`--recipe mnist-plain` and `--recipe mnist` run the trainings of the committed networks instead, as
docs/training.md has them, for `--epochs`. `--folder` has the `runs/` with the teachers and the
outliers that `mnist` takes; MNIST is where `DROPSERVE_DATA_DIR` says, or downloaded.
"""

import argparse
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from tests.training.patterns import TINY

ROOT = Path(__file__).parents[2]
_LONGEST_RUN_SECONDS = 1200
# Between two looks at the checkpoint; without a pause they would slow the training down.
_PAUSE_SECONDS = 0.02

# A run on made-up patterns: an epoch takes a fraction of a second. Then a command of training.
_PATTERNS = """
import sys
from pathlib import Path
from tests.training.patterns import run
from training.runs import use_one_thread

use_one_thread()
print("started", flush=True)
run(Path(sys.argv[2]), resume="--resume" in sys.argv)
"""
_COMMAND = """
import sys
import training.train
from training.cli import main

print("started", flush=True)
main(sys.argv[1:])
"""
RECIPES = ("patterns", "mnist-plain", "mnist")


@dataclass(frozen=True)
class Run:
    """What is run again and again.

    Attributes:
        program: in Python; says once it has started.
        arguments: before `--output FILE` and, later, `--resume`.
        folder: where it runs.
        epochs: their number.
    """

    program: str = _PATTERNS
    arguments: Sequence[str] = ()
    folder: Path = ROOT
    epochs: int = TINY.epochs

    @classmethod
    def of_recipe(cls, name: str, epochs: int, folder: Path, data_dir: Path | None = None) -> "Run":
        """A committed network's training, as docs/training.md has it, of fewer epochs."""
        page = (ROOT / "docs" / "training.md").read_text()
        commands = re.findall(r"^\$ dropserve-train (train .*)$", page, re.MULTILINE)
        (plain,) = (each for each in commands if "--output runs/mnist-plain" in each)
        (distilled,) = (each for each in commands if "--output runs/first" in each)
        words = shlex.split(plain if name == "mnist-plain" else distilled)
        for option in ("--output", "--epochs"):
            if option in words:
                index = words.index(option)
                del words[index : index + 2]
        if data_dir is not None:
            words += ["--data-dir", str(data_dir.absolute())]
        return cls(_COMMAND, [*words, "--epochs", str(epochs)], folder.absolute(), epochs)

    def start(self, output: Path) -> "subprocess.Popen[str]":
        """Begins or resumes, and returns once everything is imported."""
        has_state = output.with_name(f"{output.name}.state").exists()
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", self.program, *self.arguments),
                *("--output", str(output), *["--resume"] * has_state),
            ],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        return process


@dataclass(frozen=True)
class Outcome:
    """The result of a run that was killed again and again.

    Attributes:
        kills: runs that were killed before their end.
        loads: how often the checkpoint on disk was loaded meanwhile, always with success.
        is_same: whether the end has the bytes of the undisturbed run.
        files: what lies in the folder at the end.
    """

    kills: int
    loads: int
    is_same: bool
    files: set[str]


def kill_and_resume(folder: Path, kills: int, seed: int, run: Run | None = None) -> Outcome:
    """Trains once undisturbed and once with kills, in the folder's two subfolders.

    Raises:
        CheckpointError: at some moment the checkpoint on disk was not whole.
    """
    run = run or Run()
    undisturbed = folder / "undisturbed" / "net.safetensors"
    undisturbed.parent.mkdir()
    with run.start(undisturbed) as process:
        began = time.monotonic()
        process.wait(_LONGEST_RUN_SECONDS)
    duration = time.monotonic() - began
    assert process.returncode == 0, "the undisturbed run failed"

    output = folder / "killed" / "net.safetensors"
    output.parent.mkdir()
    shutil.copy(DEFAULT_CHECKPOINT, output)  # what the run replaces in the end
    moments, longest = random.Random(seed), duration * max(1 / kills, 1.5 / run.epochs)
    killed = loads = 0
    while True:
        with run.start(output) as process:
            delay = moments.uniform(0, longest)
            deadline = time.monotonic() + (delay if killed < kills else _LONGEST_RUN_SECONDS)
            while process.poll() is None and time.monotonic() < deadline:
                load_checkpoint(output)
                loads += 1
                time.sleep(_PAUSE_SECONDS)
            process.kill()
        load_checkpoint(output)
        if process.returncode == 0:
            break
        assert process.returncode == -9, f"the run failed with {process.returncode}"
        killed += 1
    return Outcome(
        killed,
        loads,
        output.read_bytes() == undisturbed.read_bytes(),
        {path.name for path in output.parent.iterdir()},
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the outcome; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=10, help="how often (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--recipe", choices=RECIPES, default=RECIPES[0])
    parser.add_argument("--epochs", type=int, default=5, help="of a committed network (default: 5)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where runs/ is")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        recipe = options.recipe, options.epochs, options.folder
        run = None if options.recipe == RECIPES[0] else Run.of_recipe(*recipe)
        outcome = kill_and_resume(Path(folder), options.kills, options.seed, run)
    bytes_are = "the same bytes as" if outcome.is_same else "OTHER BYTES than"
    print(f"killed {outcome.kills} times; {bytes_are} the undisturbed run")
    print(f"the checkpoint on disk loaded {outcome.loads} times out of {outcome.loads}")
    print(f"files left: {', '.join(sorted(outcome.files))}")
    return 0 if outcome.is_same else 1


if __name__ == "__main__":
    sys.exit(main())
