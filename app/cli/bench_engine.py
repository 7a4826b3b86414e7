"""`dropserve bench engine`: the engine against what one would write first, in one run.

Each round times every variant once, in a shuffled order, so that a slow moment of a shared machine
affects all of them. Results are medians with quartiles; ratios are medians of the ratios of each
round. Every call has new seeds, so that no answer comes from a cache.
"""

import argparse
import itertools
import json
import math
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from time import perf_counter
from timeit import timeit
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from app.api.examples import example_digits
from app.cli.bench_parts import time_parts
from app.cli.machine import describe_machine
from model.arrays import Pixels
from model.checkpoint import load_checkpoint
from model.engines import build_engine
from model.engines.kernels import CHUNK
from model.engines.protocol import Engine, predict_probs, sample_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import as_sequential
from model.network import MLP, normalise
from model.sampling.masks import Passes
from model.uncertainty.statistics import summarise

Options = argparse.Namespace
Times = dict[str, list[float]]  # seconds of each round, by variant

# A call is repeated within a round until it has run this long: single calls are too short to time.
_MIN_SECONDS = 0.02
# Slow variants are not repeated in every round of a large setting.
_LONG_SECONDS = 1.0
# The index of the digit with about as many inked pixels and active units as MNIST's have.
_TYPICAL = 12


def run_engine_bench(options: Options) -> None:
    """Measures and prints; `app.cli.bench` has the options.

    Raises:
        CheckpointError, DeviceError: the checkpoint cannot be used, or there is no such device.
    """
    torch.set_num_threads(1)
    network = load_checkpoint(options.checkpoint).network
    engine = build_engine(network, options.device)
    digits = example_digits()
    settings = list(itertools.product(options.images, options.passes))
    rows = [
        _measure(network, engine, _batches(digits, size), T, options)
        for size, T in tqdm(settings, desc="measuring", file=sys.stderr)
    ]
    deterministic = _time_deterministic(network, engine, digits[_TYPICAL], options)
    parts: dict[str, float] = {}
    if isinstance(engine, ReluMlpEngine):
        parts = time_parts(engine, digits[_TYPICAL], options.rounds)
    machine = describe_machine()
    if options.device.startswith("cuda"):
        machine += f"; {torch.cuda.get_device_name(options.device)}"
    if "json" in options:
        measured = {"rows": rows, "deterministic_ratio": deterministic, "parts": parts}
        print(json.dumps({"machine": machine, **measured}, indent=2))
        return
    print(
        f"{machine}; torch {torch.__version__}, one thread, float32; "
        f"median of {options.rounds} rounds\n"
    )
    print("images passes      engine ms (quartiles)  textbook ms  expansion ms  speed-up")
    for row in rows:
        low, middle, high = (seconds * 1e3 for seconds in row["engine"].values())
        print(
            f"{row['images']:>6} {row['passes']:>6} {f'{middle:.3f} ({low:.3f}-{high:.3f})':>26} "
            f"{row['textbook']['median'] * 1e3:>12.2f} {row['expansion']['median'] * 1e3:>13.2f} "
            f"{row['speedup']:>8.1f}x"
        )
    print(f"\na deterministic answer takes {deterministic:.2f} times a bare forward with softmax")
    if parts:
        whole = parts.pop("whole")
        print(f"\none image, {CHUNK} passes: {whole * 1e6:.0f} microseconds, by part")
        for name, seconds in {**parts, "together": sum(parts.values())}.items():
            print(f"{name:<12} {seconds * 1e6:6.1f}")


def _batches(digits: Sequence[Pixels], size: int) -> list[list[Pixels]]:
    """The digits repeatedly, in batches, until a batch begins with the first one again."""
    endless = itertools.cycle(digits)
    count = math.lcm(len(digits), size) // size
    return [list(itertools.islice(endless, size)) for _ in range(count)]


def _measure(
    network: MLP, engine: Engine, batches: Sequence[Sequence[Pixels]], T: int, options: Options
) -> dict[str, Any]:
    """A row of the table: all variants with T passes."""
    # Each call has the next batch: digits differ in how many units are active.
    pixels = itertools.cycle(batches)
    stacks = (normalise(np.stack(batch), network.config) for batch in batches)
    inputs = [torch.from_numpy(x).to(options.device) for x in stacks]
    textbook_x, expansion_x = itertools.cycle(inputs), itertools.cycle(inputs)
    # The inputs are ready: the textbook does not normalise.
    textbook = nn.Sequential(*list(as_sequential(network))[2:]).train().to(options.device)
    seeds = random.Random(0)  # nosec B311: the same in every run

    def run_engine() -> None:
        batch = next(pixels)
        for image in batch:
            summarise(sample_probs(engine, image, Passes(T, seeds.getrandbits(32))))

    times = time_rounds(
        {
            "engine": run_engine,
            "textbook": lambda: textbook_passes(textbook, next(textbook_x), T),
            "expansion": lambda: _expansion(textbook, next(expansion_x), T),
        },
        options.rounds,
    )
    row: dict[str, Any] = {"images": len(batches[0]), "passes": T}
    names = ("lower_quartile", "median", "upper_quartile")
    for variant, seconds in times.items():
        row[variant] = dict(zip(names, quantiles(seconds, n=4, method="inclusive"), strict=True))
    return row | {"speedup": median_ratio(times["textbook"], times["engine"])}


def textbook_passes(network: nn.Sequential, x: Tensor, T: int) -> list[Tensor]:
    """T eager forward passes with dropout active, then mean and variance."""
    with torch.inference_mode():
        probs = torch.stack([network(x).softmax(dim=1) for _ in range(T)])
        return [each.cpu() for each in torch.var_mean(probs, dim=0)]  # waits for the device


def _expansion(network: nn.Sequential, x: Tensor, T: int) -> list[Tensor]:
    """All passes as one batch through the whole network, as libraries do."""
    with torch.inference_mode():
        probs = network(x.repeat(T, 1)).softmax(dim=1).view(T, len(x), -1)
        return [each.cpu() for each in torch.var_mean(probs, dim=0)]  # waits for the device


def _time_deterministic(network: MLP, engine: Engine, pixels: Pixels, options: Options) -> float:
    """Time of a deterministic answer over that of an eager forward with softmax, input ready."""
    x = torch.from_numpy(normalise(pixels, network.config)).to(options.device)
    forward = nn.Sequential(*list(as_sequential(network))[2:]).eval().to(options.device)

    def bare() -> None:
        with torch.inference_mode():
            forward(x).softmax(dim=1).cpu()

    variants = {"engine": lambda: predict_probs(engine, pixels), "bare": bare}
    times = time_rounds(variants, options.rounds)
    return median_ratio(times["engine"], times["bare"])


def time_rounds(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    timer: Callable[[], float] = perf_counter,
) -> Times:
    """Seconds per call of each variant, in each round."""
    repeats = {}
    for name, call in variants.items():
        call()  # warms up
        seconds = timeit(call, timer=timer, number=1)
        repeats[name] = max(1, int(_MIN_SECONDS / seconds))
        if seconds > _LONG_SECONDS:
            rounds = min(rounds, 3)
    times: Times = {name: [] for name in variants}
    order = random.Random(0)  # nosec B311: the same in every run
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            seconds = timeit(variants[name], timer=timer, number=repeats[name])
            times[name].append(seconds / repeats[name])
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))
