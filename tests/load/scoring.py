"""`dropserve score` against the engine's own rate on the same cores, and its memory over time.

`python -m tests.load.scoring` scores MNIST's 60,000 training images (in DROPSERVE_DATA_DIR) with 50
passes. Between any two runs the engine alone does the same passes in as many processes, one thread
each, from pixels in memory: no statistics, no files. "Going" counts from when every process has
scored its first chunk, so without the start of Python and torch.
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
import torch
from numpy.typing import NDArray

from app.cli.machine import describe_machine
from app.scoring.arrays import IdxReader
from app.scoring.limits import CHUNK_ROWS
from app.scoring.on_cores import usable_cores
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines.relu_mlp import PassRange, build_engine
from model.sampling.masks import Passes
from tests.conftest import OURS, find_mnist
from tests.load.overload import say
from training.data import DATA_DIR_VARIABLE

_IMAGES_AT_A_TIME = 64
_SECONDS_BETWEEN_LOOKS = 0.5
_SUMMARY = re.compile(
    r"([\d,]+) of them in this run in ([\d.,]+) s \(([\d.,]+) s until the first\)"
)


@dataclass(frozen=True)
class Scoring:
    """One run of the command.

    Attributes:
        images: how many.
        command_seconds: from its start to its end.
        going_rate: images a second, without the start.
        memory: resident bytes of all its processes together, as time went by.
    """

    images: int
    command_seconds: float
    going_rate: float
    memory: Sequence[int]


def measure_score(source: Path, passes: int, workers: int) -> Scoring:
    """Runs the command into a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        command = [*OURS, "score", str(source), "-o", f"{folder}/table.parquet", "--seed", "1"]
        command += ["--passes", str(passes), "--workers", str(workers)]
        started = time.perf_counter()
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        memory = []
        while process.poll() is None:
            memory.append(resident_bytes(process.pid))
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        seconds = time.perf_counter() - started
        assert process.stderr is not None
        said = process.stderr.read()
        found = _SUMMARY.search(said)
        assert process.returncode == 0, said
        assert found is not None, said
    images, own_seconds, start_seconds = (float(each.replace(",", "")) for each in found.groups())
    going = (images - workers * CHUNK_ROWS) / (own_seconds - start_seconds)
    return Scoring(int(images), seconds, going, memory)


def measure_engine(pixels: NDArray[np.uint8], passes: int, workers: int) -> float:
    """Images a second of the engine alone."""
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
    torch.set_num_threads(1)
    engine = build_engine(load_checkpoint(DEFAULT_CHECKPOINT).network, "cpu", "float32")
    barrier.wait()
    begin = time.monotonic()
    for start in range(0, len(pixels), _IMAGES_AT_A_TIME):
        some = list(pixels[start : start + _IMAGES_AT_A_TIME])
        images = engine.prepare(some, [Passes(passes, 1)] * len(some))
        engine.sample([PassRange(image, 0, passes) for image in images])
    results.put((begin, time.monotonic()))


def resident_bytes(pid: int) -> int:
    """Of a process and all that it has started."""
    total = 0
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        total = int(found.group(1)) * 1024 if found else 0
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended
        return total
    return total + sum(resident_bytes(int(child)) for child in children)


def describe(rounds: Sequence[tuple[float, Scoring]]) -> Iterator[str]:
    """Rates, their ratios, and the memory of the last run."""
    for number, (engine, scoring) in enumerate(rounds, 1):
        whole = scoring.images / scoring.command_seconds
        yield (
            f"round {number}: engine {engine:,.0f} images/s; score {scoring.going_rate:,.0f} once "
            f"going ({scoring.going_rate / engine:.2f}), {whole:,.0f} for the whole command "
            f"({whole / engine:.2f}, {scoring.command_seconds:.1f} s)"
        )
    going = median(scoring.going_rate / engine for engine, scoring in rounds)
    yield f"score, once going, over the engine: median {going:.2f} (wanted: at least 0.80)"
    memory = rounds[-1][1].memory
    shown = [memory[int((len(memory) - 1) * share / 10)] for share in range(1, 10)]
    listed = " ".join(f"{each / 2**20:.0f}" for each in shown)
    yield f"resident memory after each tenth of the time, MB: {listed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=len(usable_cores()) or 1)
    arguments = parser.parse_args()
    source = next(find_mnist().glob("train-images-idx3-ubyte*"), None)
    if source is None:
        sys.exit(f"no MNIST in {find_mnist()}; name a folder that has it in {DATA_DIR_VARIABLE}")
    reader = IdxReader(str(source))
    pixels = np.stack([np.asarray(item.image) for item in reader.read(0, reader.count)])
    say(
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
        say(line)


if __name__ == "__main__":
    main()
