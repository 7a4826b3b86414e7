"""`dropserve bench engine`: the engine against what one would write first, in one run.

Each round times every variant once, in a shuffled order, so that a slow moment of a shared machine
affects all of them. Results are medians with quartiles; ratios are medians of the ratios of each
round. Every call has new seeds, so that no answer comes from a cache.
"""

import itertools
import json
import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from app.api.examples import example_digits
from app.cli.machine import describe_machine
from model.arrays import Pixels
from model.checkpoint import load_checkpoint
from model.engines.protocol import PassRange
from model.engines.relu_mlp import ReluMlpEngine
from model.network import MLP, normalise
from model.sampling.masks import Passes, drop_thresholds, random_bytes, row_bytes
from model.uncertainty.statistics import summarise

Variants = Mapping[str, Callable[[], object]]

# The product by which the machine's ceiling is measured: layer 2 of 32 images with 100 passes.
_CEILING_SHAPE = (3200, 512, 256)
# A call is repeated within a round until it has run this long: single calls are too short to time.
_MIN_SECONDS = 0.02
# Slow variants are not repeated in every round of a large setting.
_LONG_SECONDS = 1.0
# The index of the digit with about as many inked pixels and active units as MNIST's have.
_TYPICAL = 12


def run_engine_bench(
    checkpoint: Path, images: Sequence[int], passes: Sequence[int], rounds: int, *, as_json: bool
) -> None:
    """Measures and prints.

    Args:
        checkpoint: the network's file.
        images: batch sizes.
        passes: numbers of passes.
        rounds: repetitions.
        as_json: print one JSON document instead of tables.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    torch.set_num_threads(1)
    network = load_checkpoint(checkpoint).network
    engine = ReluMlpEngine(network)
    digits = example_digits()
    ceiling = _measure_ceiling(rounds)
    settings = list(itertools.product(images, passes))
    rows = [
        _measure(network, engine, _batches(digits, size), T, rounds, max(ceiling.values()))
        for size, T in tqdm(settings, desc="measuring", file=sys.stderr)
    ]
    parts = _measure_parts(engine, digits[_TYPICAL], 100, rounds)
    deterministic = _measure_deterministic(network, engine, digits[_TYPICAL], rounds)
    machine = describe_machine()
    if as_json:
        document = {
            "machine": machine,
            "ceiling_gflops": ceiling,
            "rows": rows,
            "parts_seconds": parts,
            "deterministic_ratio": deterministic,
        }
        print(json.dumps(document, indent=2))
        return
    print(f"{machine}; torch {torch.__version__}, one thread, float32; median of {rounds} rounds\n")
    print(
        "images passes      engine ms (quartiles)  textbook ms  expansion ms  speed-up  GFLOP/s "
        "of ceiling"
    )
    for row in rows:
        low, middle, high = (seconds * 1e3 for seconds in row["engine"].values())
        print(
            f"{row['images']:>6} {row['passes']:>6} {f'{middle:.3f} ({low:.3f}-{high:.3f})':>26} "
            f"{row['textbook']['median'] * 1e3:>12.2f} {row['expansion']['median'] * 1e3:>13.2f} "
            f"{row['speedup']:>8.1f}x {row['gflops']:>8.0f} {row['share_of_ceiling']:>9.0%}"
        )
    reached = ", ".join(f"{name} {gflops:.0f}" for name, gflops in ceiling.items())
    print(f"\nthe product {_CEILING_SHAPE} reaches, GFLOP/s: {reached}")
    print("\none image, 100 passes, by part (microseconds):")
    for name, seconds in parts.items():
        print(f"  {name:<42}{seconds * 1e6:>8.0f}")
    print(f"\na deterministic answer takes {deterministic:.2f} times a bare forward with softmax")


def _batches(digits: Sequence[Pixels], size: int) -> list[list[Pixels]]:
    """The digits repeatedly, in batches, until a batch begins with the first one again."""
    endless = itertools.cycle(digits)
    count = math.lcm(len(digits), size) // size
    return [list(itertools.islice(endless, size)) for _ in range(count)]


def _measure(
    network: MLP,
    engine: ReluMlpEngine,
    batches: Sequence[Sequence[Pixels]],
    T: int,
    rounds: int,
    ceiling: float,
) -> dict[str, Any]:
    """A row of the table: all variants with T passes. The ceiling is in GFLOP/s."""
    # Each call has the next batch: digits differ in how many units are active.
    pixels = itertools.cycle(batches)
    inputs = [normalise(np.stack(batch), network.config) for batch in batches]
    textbook_x, expansion_x = itertools.cycle(inputs), itertools.cycle(inputs)
    sequential = _as_sequential(network)
    seeds = random.Random(0)  # nosec B311: the same in every run

    def run_engine() -> None:
        batch = next(pixels)
        images = engine.prepare(batch, [Passes(T, seeds.getrandbits(32)) for _ in batch])
        for probs in engine.sample([PassRange(image, 0, T) for image in images]):
            summarise(probs)

    times = _time_rounds(
        {
            "engine": run_engine,
            "textbook": lambda: _textbook(sequential, next(textbook_x), T),
            "expansion": lambda: _expansion(sequential, next(expansion_x), T),
        },
        rounds,
    )
    size = len(batches[0])
    gflops = size * _nominal_flops(network, T) / median(times["engine"]) / 1e9
    names = ("lower_quartile", "median", "upper_quartile")
    return {
        "images": size,
        "passes": T,
        **{
            variant: dict(zip(names, quantiles(seconds, n=4, method="inclusive"), strict=True))
            for variant, seconds in times.items()
        },
        "speedup": _median_ratio(times["textbook"], times["engine"]),
        "gflops": gflops,
        "share_of_ceiling": gflops / ceiling,
    }


def _textbook(network: nn.Sequential, x: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """T eager forward passes with dropout active, then mean and variance."""
    with torch.inference_mode():
        probs = torch.stack([network(x).softmax(dim=1) for _ in range(T)])
        return torch.var_mean(probs, dim=0)


def _expansion(network: nn.Sequential, x: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """All passes as one batch through the whole network, as libraries do."""
    with torch.inference_mode():
        probs = network(x.repeat(T, 1)).softmax(dim=1).view(T, len(x), -1)
        return torch.var_mean(probs, dim=0)


def _as_sequential(network: MLP) -> nn.Sequential:
    """The network as in a textbook, with `nn.Dropout` modules in training mode."""
    modules: list[nn.Module] = []
    *hidden, output = network.layers
    for layer, rate in zip(hidden, network.config.dropout_rates, strict=True):
        modules += [layer, nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*modules, output).train()


def _nominal_flops(network: MLP, T: int) -> int:
    """Twice the multiply-adds of layer 1 once and of the later layers in every pass."""
    first, *later = (
        layer.weight.numel() for layer in network.layers if isinstance(layer, nn.Linear)
    )
    return 2 * (first + T * sum(later))


def _measure_ceiling(rounds: int) -> dict[str, float]:
    """GFLOP/s of the network's largest product, by every float32 path that torch has here."""
    rows, inputs, outputs = _CEILING_SHAPE
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    transposed = weight.T.contiguous()
    variants: dict[str, Callable[[], object]] = {
        "F.linear": lambda: F.linear(x, weight, bias),
        "addmm": lambda: torch.addmm(bias, x, transposed),
    }
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
        linear = torch.ops.mkldnn._linear_pointwise
        linear(x, packed, bias, "none", [], "")
        variants["oneDNN packed"] = lambda: linear(x, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError):  # private, and missing on some platforms
        pass
    with torch.inference_mode():
        times = _time_rounds(variants, rounds)
    flops = 2 * rows * inputs * outputs
    return {name: flops / min(seconds) / 1e9 for name, seconds in times.items()}


def _measure_deterministic(
    network: MLP, engine: ReluMlpEngine, pixels: Pixels, rounds: int
) -> float:
    """Time of a deterministic answer over that of an eager forward with softmax, input ready."""
    x = normalise(pixels, network.config)

    def bare() -> None:
        with torch.inference_mode():
            network(x).softmax(dim=1)

    times = _time_rounds({"engine": lambda: engine.predict_probs(pixels), "bare": bare}, rounds)
    return _median_ratio(times["engine"], times["bare"])


def _measure_parts(engine: ReluMlpEngine, pixels: Pixels, T: int, rounds: int) -> dict[str, float]:
    """Seconds of each part of one image's answer, each part timed alone."""
    width = row_bytes(engine.config)
    seeds = random.Random(0)  # nosec B311: the same in every run
    (image,) = engine.prepare([pixels], [Passes(T, 0)])
    ranges = [PassRange(image, 0, T)]
    (probs,) = engine.sample(ranges)
    thresholds = np.tile(drop_thresholds(engine.config), (T, 1))
    draws = random_bytes(0, 0, T, width)[:, : thresholds.shape[1]]
    (block,) = engine._blocks(ranges)

    def all_but_softmax() -> None:
        with torch.inference_mode():
            engine._block_logits(block)

    first_layer = f"layer 1, with {len(image.active)} active units"
    times = _time_rounds(
        {
            first_layer: lambda: engine.prepare([pixels], [Passes(T, 0)]),
            "random bytes": lambda: random_bytes(seeds.getrandbits(32), 0, T, width),
            "bytes compared with the rates": lambda: np.greater_equal(draws, thresholds),
            "masks applied, products": all_but_softmax,
            "softmax": lambda: engine.sample(ranges),
            "statistics": lambda: summarise(probs),
        },
        rounds,
    )
    parts = {name: median(seconds) for name, seconds in times.items()}
    # These two were timed together with the parts before them.
    parts["softmax"] -= parts["masks applied, products"]
    for name in ("random bytes", "bytes compared with the rates"):
        parts["masks applied, products"] -= parts[name]
    return parts


def _time_rounds(variants: Variants, rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each variant, in each round."""
    repeats = {}
    for name, call in variants.items():
        call()  # warms up
        seconds = _time(call, 1)
        repeats[name] = max(1, int(_MIN_SECONDS / seconds))
        if seconds > _LONG_SECONDS:
            rounds = min(rounds, 3)
    times: dict[str, list[float]] = {name: [] for name in variants}
    order = random.Random(0)  # nosec B311: the same in every run
    for _ in range(rounds):
        for name in order.sample(list(variants), len(variants)):
            times[name].append(_time(variants[name], repeats[name]))
    return times


def _time(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def _median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return median(a / b for a, b in zip(above, below, strict=True))
