"""The rate of `dropserve score`, compared with the engine alone, and its memory over time.

`python -m tests.load.scoring` scores MNIST's 60,000 training images (in DROPSERVE_DATA_DIR) with 50
passes. Between any two runs the engine alone computes the same passes in as many processes, with
one thread each, from pixels in memory: without statistics and files. The steady rate counts from
when every process has scored its first chunk, so it leaves out the start of Python.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from app.cli.machine import describe_machine
from app.scoring.arrays import IdxReader
from app.scoring.on_cores import usable_cores
from app.scoring.sources import CHUNK_ROWS
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.sampling.masks import Passes
from tests.load.processes import descendants_of, resident_mib
from tests.load.servers import OURS, ROOT
from training.data import DATA_DIR_VARIABLE, find_folder

_POLL_SECONDS = 0.5
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
        memory: resident MiB of all its processes together, sampled.
    """

    images: int
    command_seconds: float
    steady_rate: float
    memory: Sequence[float]


def measure_score(source: Path, passes: int, workers: int) -> Scoring:
    """Runs the command into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*OURS, "score", str(source), "-o", f"{folder}/table.parquet", "--seed", "1"]
        command += ["--passes", str(passes), "--workers", str(workers)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        memory = []
        while process.poll() is None:
            pids = [process.pid, *descendants_of(process.pid)]
            memory.append(sum(map(resident_mib, pids)))
            time.sleep(_POLL_SECONDS)
        seconds = time.perf_counter() - started
        assert process.stderr is not None
        said = process.stderr.read()
        found = _SUMMARY.search(said)
        assert process.returncode == 0, said
        assert found is not None, said
    images, own_seconds, start_seconds = (float(each.replace(",", "")) for each in found.groups())
    steady = (images - workers * CHUNK_ROWS) / (own_seconds - start_seconds)
    return Scoring(int(images), seconds, steady, memory)


def measure_engine(pixels: NDArray[np.uint8], passes: int, workers: int) -> float:
    """Images per second of the engine alone."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for the processes, as in the command
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.SimpleQueue()
    processes = [
        context.Process(target=_compute, args=(pixels[number::workers], passes, barrier, results))
        for number in range(workers)
    ]
    for process in processes:
        process.start()
    times: list[tuple[float, float]] = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return len(pixels) / (max(end for _, end in times) - min(begin for begin, _ in times))


def _compute(
    pixels: NDArray[np.uint8],
    passes: int,
    barrier: Barrier,
    results: "multiprocessing.SimpleQueue[tuple[float, float]]",
) -> None:
    engine = build_engine(load_checkpoint(DEFAULT_CHECKPOINT).network, "cpu", "float32")
    barrier.wait()
    begin = time.monotonic()
    for image in pixels:
        sample_probs(engine, image, Passes(passes, 1))
    results.put((begin, time.monotonic()))


def describe(rounds: Sequence[tuple[float, Scoring]]) -> Iterator[str]:
    """Rates, their ratios, and the memory of the last run."""
    for number, (engine, scoring) in enumerate(rounds, 1):
        whole = scoring.images / scoring.command_seconds
        yield (
            f"round {number}: engine {engine:,.0f} images/s; score {scoring.steady_rate:,.0f} "
            f"steadily ({scoring.steady_rate / engine:.2f}), {whole:,.0f} for the whole command "
            f"({whole / engine:.2f}, {scoring.command_seconds:.1f} s)"
        )
    steady = median(scoring.steady_rate / engine for engine, scoring in rounds)
    yield f"steady rate of score over the engine: median {steady:.2f} (wanted: at least 0.80)"
    memory = rounds[-1][1].memory
    shown = [memory[int((len(memory) - 1) * share / 10)] for share in range(1, 10)]
    listed = " ".join(f"{each:.0f}" for each in shown)
    yield f"resident MiB after each tenth of the time: {listed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=len(usable_cores()) or 1)
    arguments = parser.parse_args()
    data = os.environ.get(DATA_DIR_VARIABLE) or ROOT.parent / "shared" / "data"
    folder = find_folder(Path(data))
    source = next(folder.glob("train-images-idx3-ubyte*"), None)
    if source is None:
        sys.exit(f"no MNIST in {folder}; set {DATA_DIR_VARIABLE} to a folder that has it")
    reader = IdxReader(str(source))
    pixels = np.stack([np.asarray(item.image) for item in reader.read(0, reader.count)])
    print(
        f"{describe_machine()}; {len(pixels):,} images, {arguments.passes} passes, "
        f"{arguments.workers} processes"
    )
    rounds = [
        (
            measure_engine(pixels, arguments.passes, arguments.workers),
            measure_score(source, arguments.passes, arguments.workers),
        )
        for _ in range(arguments.rounds)
    ]
    for line in describe(rounds):
        print(line)


if __name__ == "__main__":
    main()
