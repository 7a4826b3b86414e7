"""Rates of `dropserve score`, what it costs to start, and what is left of it after a kill.

`python -m tests.load.scoring rate` scores MNIST's training images (in DROPSERVE_DATA_DIR), repeated
to as many rows as wanted. Before each run the engine alone computes passes of some of them on one
thread, from pixels in memory: without statistics and files. The steady rate counts from when the
first block was scored, so it leaves out the start of Python. On a machine that others use, the
share of the processor's time says more than the clock: it compares the time that the command's
processes computed, for each image, with the engine's. `--ray local` does the same on Ray.

- `start` compares the command with ten pictures with that of one.
- `kills` ends the command, a Ray actor and a local Ray with SIGKILL, five times each.
- `node` does so with one of a cluster's two nodes.
- `actors` prints images/s by the number of actors, from what one computes and what Ray's driver
  does for it.

What needs Ray runs in a network namespace with nothing but the loopback in it.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from app.api.examples import example_digits
from app.cli.machine import describe_machine
from app.scoring.sources import BLOCK_ROWS
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines import build_engine
from model.sampling.masks import Passes
from tests.app.scoring.inputs import png, write_idx
from tests.isolation import ISOLATED
from tests.load.processes import descendants_of, processor_seconds, resident_mib
from tests.load.scoring_kills import kill_node, kills
from tests.load.servers import OURS
from training.data import load_images

_POLL_SECONDS = 0.2
_ENGINE_IMAGES = 10_000
_SUMMARY = re.compile(
    r"([\d,]+) of them in this run in ([\d.,]+) s \(([\d.,]+) s until the first\)"
)


@dataclass(frozen=True)
class Scoring:
    """One run of the command.

    Attributes:
        images: how many.
        command_seconds: from its start to its end.
        own_seconds: of these, from when the input was known.
        steady_rate: images per second, without the start.
        processor_seconds: that its processes used, the start included: of the command itself, of
            Ray's actors, of everything else.
        memory: resident MiB of all its processes together, sampled.
    """

    images: int
    command_seconds: float
    own_seconds: float
    steady_rate: float
    processor_seconds: Mapping[str, float]
    memory: Sequence[float]


def measure_score(source: Path, *options: object) -> Scoring:
    """Runs the command into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*OURS, "score", str(source), "-o", f"{folder}/table.parquet", "--seed", "1"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [*command, *map(str, options)], stderr=subprocess.PIPE, text=True
        )
        memory: list[float] = []
        used: dict[int, tuple[str, float]] = {}
        while process.poll() is None:
            pids = [process.pid, *descendants_of(process.pid)]
            memory.append(sum(map(resident_mib, pids)))
            for pid in pids:
                used[pid] = _role(pid, process.pid), _processor_seconds(pid, used)
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - started
        assert process.stderr is not None
        said = process.stderr.read()
        found = _SUMMARY.search(said)
        assert process.returncode == 0, said
        assert found is not None, said
    images, own_seconds, start_seconds = (float(each.replace(",", "")) for each in found.groups())
    steady = (images - BLOCK_ROWS) / max(own_seconds - start_seconds, 1e-9)
    shares = dict.fromkeys(("command", "actors", "others"), 0.0)
    for role, each in used.values():
        shares[role] += each
    return Scoring(int(images), seconds, own_seconds, steady, shares, memory)


def _role(pid: int, command: int) -> str:
    if pid == command:
        return "command"
    try:
        is_actor = b"MapWorker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        is_actor = False
    return "actors" if is_actor else "others"


def _processor_seconds(pid: int, before: Mapping[int, tuple[str, float]]) -> float:
    try:
        return processor_seconds(pid)
    except OSError:  # it has ended
        return before.get(pid, ("", 0.0))[1]


def measure_engine(pixels: NDArray[np.uint8], passes: int) -> tuple[float, float]:
    """Images per second of the engine alone on one thread, by the clock and by its own time."""
    engine = build_engine(load_checkpoint(DEFAULT_CHECKPOINT).network, "cpu", "float32")
    engine.sample_images(pixels[:1], [1], Passes(passes, 1))  # uncounted: what it compiles
    begun, used = time.perf_counter(), time.thread_time()
    for begin in range(0, len(pixels), BLOCK_ROWS):
        block = pixels[begin : begin + BLOCK_ROWS]
        engine.sample_images(block, [1] * len(block), Passes(passes, 1))
    clock, used = time.perf_counter() - begun, time.thread_time() - used
    return len(pixels) / clock, len(pixels) / used


def write_rows(folder: str, rows: int) -> Path:
    """MNIST's training images, repeated, as one file."""
    pixels = load_images("train").pixels
    return write_idx(Path(folder, "x-idx3-ubyte"), np.resize(pixels, (rows, 28, 28)))


def rate(arguments: argparse.Namespace) -> None:
    """Rates, their ratios, and the memory of the last run."""
    threads, passes = arguments.workers, arguments.passes
    options = ["--workers", threads, "--passes", passes]
    options += ["--ray", arguments.ray] if arguments.ray else []
    pixels, ratios, shares = load_images("train").pixels[:_ENGINE_IMAGES], [], []
    with tempfile.TemporaryDirectory() as folder:
        source = write_rows(folder, arguments.rows)
        for number in range(1, arguments.rounds + 1):
            clock, own = measure_engine(pixels, passes)
            scoring = measure_score(source, *options)
            ratios.append(scoring.steady_rate / clock / threads)
            each = {role: s / scoring.images for role, s in scoring.processor_seconds.items()}
            shares.append(1 / own / sum(each.values()))
            beyond = scoring.command_seconds - scoring.images / clock / threads
            print(
                f"round {number}: engine {clock:,.0f} images/s on one thread; score "
                f"{scoring.steady_rate:,.0f} steadily ({ratios[-1]:.2f} of {threads} threads'), "
                f"{scoring.images / scoring.command_seconds:,.0f} for the whole command "
                f"({scoring.command_seconds:.1f} s, {beyond:.1f} s beyond the engine's); processor "
                f"time for each image: engine {1e6 / own:.0f} us, "
                + ", ".join(f"{role} {1e6 * seconds:.0f} us" for role, seconds in each.items())
            )
    print(f"steady rate over the engine's: median {median(ratios):.2f} (wanted: at least 0.85)")
    print(f"the engine's processor time over all processes': median {median(shares):.2f}")
    memory = scoring.memory
    shown = [memory[int((len(memory) - 1) * share / 10)] for share in range(1, 10)]
    print("resident MiB after each tenth of the time:", *(f"{each:.0f}" for each in shown))


def start(arguments: argparse.Namespace) -> None:
    """What a run with ten pictures takes, compared with one."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder, "one"), Path(folder, "ten")
        for path, count in ((few, 1), (many, 10)):
            path.mkdir()
            for number, pixels in enumerate(example_digits()[:count]):
                (path / f"{number}.png").write_bytes(png(pixels))
        for number in range(1, arguments.rounds + 1):
            one, ten = measure_score(few), measure_score(many)
            ratios.append(ten.command_seconds / one.command_seconds)
            print(
                f"round {number}: one picture {one.command_seconds:.2f} s, of the processor "
                f"{sum(one.processor_seconds.values()):.2f} s; ten {ten.command_seconds:.2f} s, "
                f"{sum(ten.processor_seconds.values()):.2f} s"
            )
    print(f"ten pictures over one: median {median(ratios):.2f} (wanted: at most 1.5)")


def actors(arguments: argparse.Namespace) -> None:
    """What any number of actors would do: the driver's work for an image does not get less."""
    options = ["--ray", "local", "--passes", arguments.passes]
    with tempfile.TemporaryDirectory() as folder:
        few, many = (
            measure_score(write_rows(folder, rows), *options)
            for rows in (arguments.rows // 10, arguments.rows)
        )
    more = many.images - few.images
    own, driver, others = (
        (many.processor_seconds[role] - few.processor_seconds[role]) / more
        for role in ("actors", "command", "others")
    )
    computing = many.processor_seconds["actors"] - own * many.images
    starting = many.command_seconds - more * own / arguments.workers - few.images * own
    print(
        f"Processor time for each image: an actor {1e6 * own:.0f} us, the driver "
        f"{1e6 * driver:.1f} us, Ray's other processes {1e6 * others:.1f} us.\nThe start takes "
        f"about {max(starting, 0):.0f} s; the actors compute {computing:.1f} s in it."
    )
    print("actors  images/s  of the actors' own  10 million images")
    for count in (1, 2, 4, 8, 16, 32, 64, 128):
        images = min(count / own, 1 / driver)
        print(
            f"{count:6}  {images:8,.0f}  {images * own / count:18.0%}  "
            f"{max(starting, 0) + 1e7 / images:15,.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands: Mapping[str, Callable[[argparse.Namespace], None]] = {
        "rate": rate,
        "start": start,
        "kills": kills,
        "node": kill_node,
        "actors": actors,
    }
    parser.add_argument("command", choices=commands)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--ray", metavar="ADDRESS", help="of `rate`")
    parser.add_argument("--times", type=int, default=5, help="of each kind of kill")
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.isolated and (
        arguments.ray or arguments.command in ("kills", "node", "actors")
    ):
        again = [sys.executable, "-m", "tests.load.scoring", *sys.argv[1:], "--isolated"]
        os.execvp(ISOLATED[0], [*ISOLATED, *again])
    print(f"{describe_machine()}; {arguments.passes} passes, {arguments.workers} threads or actors")
    commands[arguments.command](arguments)


if __name__ == "__main__":
    main()
