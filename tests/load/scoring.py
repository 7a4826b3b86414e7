"""The rate of `dropserve score`, compared with the engine alone, and its memory over time.

`python -m tests.load.scoring` scores MNIST's 60,000 training images (in DROPSERVE_DATA_DIR) with 50
passes. Before each run the engine alone computes passes of some of them on one thread,
from pixels in memory: without statistics and files. The steady rate counts from when the first
block was scored, so it leaves out the start of Python. On a machine that others use, the share of
the processor's time says more than the clock: it compares the time that the command's threads
computed, for each image, with the engine's. `--ray local` does the same on Ray.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from app.cli.machine import describe_machine
from app.scoring.local import usable_cores
from app.scoring.readers import open_images
from app.scoring.sources import BLOCK_ROWS
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines import build_engine
from model.sampling.masks import Passes
from tests.load.processes import descendants_of, processor_seconds, resident_mib
from tests.load.servers import OURS, ROOT
from training.data import DATA_DIR_VARIABLE, find_folder

_POLL_SECONDS = 0.5
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
        steady_rate: images per second, without the start.
        processor_seconds: that all its processes used together, the start included.
        memory: resident MiB of all its processes together, sampled.
    """

    images: int
    command_seconds: float
    steady_rate: float
    processor_seconds: float
    memory: Sequence[float]


def measure_score(source: Path, passes: int, options: Sequence[str]) -> Scoring:
    """Runs the command into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*OURS, "score", str(source), "-o", f"{folder}/table.parquet", "--seed", "1"]
        command += ["--passes", str(passes), *options]
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        memory, used = [], 0.0
        while process.poll() is None:
            pids = [process.pid, *descendants_of(process.pid)]
            memory.append(sum(map(resident_mib, pids)))
            used = max(used, sum(map(_processor_seconds, pids)))
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - started
        assert process.stderr is not None
        said = process.stderr.read()
        found = _SUMMARY.search(said)
        assert process.returncode == 0, said
        assert found is not None, said
    images, own_seconds, start_seconds = (float(each.replace(",", "")) for each in found.groups())
    steady = (images - BLOCK_ROWS) / (own_seconds - start_seconds)
    return Scoring(int(images), seconds, steady, used, memory)


def _processor_seconds(pid: int) -> float:
    try:
        return processor_seconds(pid)
    except OSError:  # it has ended
        return 0.0


def measure_engine(pixels: NDArray[np.uint8], passes: int) -> tuple[float, float]:
    """Images per second of the engine alone on one thread, by the clock and by its own time."""
    engine = build_engine(load_checkpoint(DEFAULT_CHECKPOINT).network, "cpu", "float32")
    begin, used = time.perf_counter(), time.thread_time()
    for begin in range(0, len(pixels), BLOCK_ROWS):
        block = pixels[begin : begin + BLOCK_ROWS]
        engine.sample_images(block, [1] * len(block), Passes(passes, 1))
    clock, used = time.perf_counter() - begin, time.thread_time() - used
    return len(pixels) / clock, len(pixels) / used


def describe(rounds: Sequence[tuple[tuple[float, float], Scoring]], threads: int) -> Iterator[str]:
    """Rates, their ratios, and the memory of the last run."""
    for number, ((clock, own), scoring) in enumerate(rounds, 1):
        whole = scoring.images / scoring.command_seconds
        yield (
            f"round {number}: engine {clock:,.0f} images/s on one thread; score "
            f"{scoring.steady_rate:,.0f} steadily ({scoring.steady_rate / clock / threads:.2f} of "
            f"{threads} threads'), {whole:,.0f} for the whole command "
            f"({scoring.command_seconds:.1f} s); processor time for each image: engine "
            f"{1e6 / own:.0f} us, score {1e6 * scoring.processor_seconds / scoring.images:.0f} us"
        )
    steady = median(scoring.steady_rate / clock / threads for (clock, _), scoring in rounds)
    yield f"steady rate of score over the engine's: median {steady:.2f} (wanted: at least 0.85)"
    memory = rounds[-1][1].memory
    shown = [memory[int((len(memory) - 1) * share / 10)] for share in range(1, 10)]
    listed = " ".join(f"{each:.0f}" for each in shown)
    yield f"resident MiB after each tenth of the time: {listed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=len(usable_cores()) or 1)
    parser.add_argument("--ray", metavar="ADDRESS")
    arguments = parser.parse_args()
    data = os.environ.get(DATA_DIR_VARIABLE) or ROOT.parent / "shared" / "data"
    folder = find_folder(Path(data))
    source = next(folder.glob("train-images-idx3-ubyte*"), None)
    if source is None:
        sys.exit(f"no MNIST in {folder}; set {DATA_DIR_VARIABLE} to a folder that has it")
    with source.open("rb") as file:
        images = open_images(file, str(source), "idx", None).read(0)
        pixels = np.stack([np.asarray(image) for _, image in islice(images, _ENGINE_IMAGES)])
    print(f"{describe_machine()}; {arguments.passes} passes, {arguments.workers} threads")
    options = ["--workers", str(arguments.workers)]
    options += ["--ray", arguments.ray] if arguments.ray else []
    rounds = [
        (
            measure_engine(pixels, arguments.passes),
            measure_score(source, arguments.passes, options),
        )
        for _ in range(arguments.rounds)
    ]
    for line in describe(rounds, arguments.workers):
        print(line)


if __name__ == "__main__":
    main()
