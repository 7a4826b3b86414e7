"""Kills a training run with SIGKILL at random moments and resumes it, again and again.

`python -m tests.training.kill_and_resume` prints the result. The end must have the bytes of a run
that nobody disturbed, and the checkpoint on disk must load at every moment.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint

ROOT = Path(__file__).parents[2]
_LONGEST_RUN_SECONDS = 300
# Between two looks at the checkpoint; without a pause they would slow the training down.
_PAUSE_SECONDS = 0.02

# A run on made-up patterns: an epoch takes a fraction of a second.
_RUN = """
import sys
from pathlib import Path
import torch
from tests.training.patterns import run

torch.set_num_threads(1)
print("started", flush=True)
run(Path(sys.argv[1]), resume=sys.argv[2] == "resume")
"""


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


def kill_and_resume(folder: Path, kills: int, seed: int) -> Outcome:
    """Trains once undisturbed and once with kills, in the folder's two subfolders.

    Raises:
        CheckpointError: at some moment the checkpoint on disk was not whole.
    """
    undisturbed = folder / "undisturbed" / "net.safetensors"
    started = time.monotonic()
    with _start(undisturbed) as process:
        _wait_until_started(process)
        training_began = time.monotonic()
    duration = time.monotonic() - training_began
    assert process.returncode == 0, "the undisturbed run failed"
    assert time.monotonic() - started < _LONGEST_RUN_SECONDS

    output = folder / "killed" / "net.safetensors"
    output.parent.mkdir()
    shutil.copy(DEFAULT_CHECKPOINT, output)  # what the run replaces in the end
    moments = random.Random(seed)
    killed = loads = 0
    while True:
        with _start(output) as process:
            _wait_until_started(process)
            delay = moments.uniform(0, duration / kills)
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


def _start(output: Path) -> "subprocess.Popen[str]":
    has_state = output.with_name(f"{output.name}.state").exists()
    arguments = [str(output), "resume" if has_state else "begin"]
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _wait_until_started(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the outcome; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=10, help="how often (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_resume(Path(folder), options.kills, options.seed)
    bytes_are = "the same bytes as" if outcome.is_same else "OTHER BYTES than"
    print(f"killed {outcome.kills} times; {bytes_are} the undisturbed run")
    print(f"the checkpoint on disk loaded {outcome.loads} times out of {outcome.loads}")
    print(f"files left: {', '.join(sorted(outcome.files))}")
    return 0 if outcome.is_same else 1


if __name__ == "__main__":
    sys.exit(main())
