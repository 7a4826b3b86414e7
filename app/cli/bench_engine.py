"""`dropserve bench engine`: the engine against what one would write first, in one run.

Every round times each variant once, in a shuffled order, so that a slow moment of a shared machine
hits all of them alike; medians with quartiles are reported, and ratios are medians of the rounds'
own ratios. Seeds are new in every call: nothing is answered from memory.
"""

import itertools
import json
import math
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from app.api.examples import example_digits
from app.cli.machine import describe_machine
from model.arrays import Pixels
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines.protocol import PassRange
from model.engines.relu_mlp import ReluMlpEngine
from model.network import MLP, normalise
from model.sampling.masks import Passes, drop_thresholds, random_bytes, row_bytes
from model.uncertainty.statistics import summarise

# The product by which the machine's ceiling is measured: layer 2 of 32 images with 100 passes.
_CEILING_SHAPE = (3200, 512, 256)
# A call is repeated within a round until it has run this long: single calls are too short to time.
_LEAST_SECONDS = 0.02
# Slow baselines are not repeated in every round of a large setting.
_LONG_SECONDS = 1.0
# Of the drawn digits one with about as many inked pixels and living units as MNIST's have.
_TYPICAL = 12


@dataclass(frozen=True)
class Timing:
    """Seconds a call, over the rounds."""

    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True)
class Row:
    """One setting: every variant timed in the same rounds."""

    images: int
    passes: int
    engine: Timing
    textbook: Timing
    expansion: Timing
    speedup: float  # textbook / engine, median of the rounds' ratios
    gflops: float  # of the engine, by the nominal arithmetic
    share_of_ceiling: float


def run_engine_bench(
    checkpoint: Path | None,
    images: Sequence[int],
    passes: Sequence[int],
    rounds: int,
    *,
    as_json: bool,
) -> None:
    """Measures and prints.

    Args:
        checkpoint: which network; None is the committed one.
        images: batch sizes.
        passes: numbers of passes.
        rounds: repetitions.
        as_json: print one JSON document instead of tables.

    Raises:
        CheckpointError: the checkpoint cannot be used.
    """
    torch.set_num_threads(1)
    network = load_checkpoint(checkpoint or DEFAULT_CHECKPOINT).network
    engine = ReluMlpEngine(network)
    digits = example_digits()
    ceiling = _measure_ceiling(rounds)
    best = max(ceiling.values())
    rows = []
    with tqdm(total=len(images) * len(passes), desc="measuring", file=sys.stderr) as bar:
        for count in images:
            for T in passes:
                rows.append(_measure(network, engine, _batches(digits, count), T, rounds, best))
                bar.update()
    parts = _split_time(engine, digits[_TYPICAL], 100, rounds)
    deterministic = _measure_deterministic(network, engine, digits[_TYPICAL], rounds)
    machine = describe_machine()
    if as_json:
        document = {
            "machine": machine,
            "ceiling_gflops": ceiling,
            "rows": [asdict(row) for row in rows],
            "parts_seconds": parts,
            "deterministic_ratio": deterministic,
        }
        print(json.dumps(document, indent=2))
        return
    print(f"{machine}; torch {torch.__version__}, one thread, float32; median of {rounds} rounds\n")
    _print_rows(rows)
    found = ", ".join(f"{name} {gflops:.0f}" for name, gflops in ceiling.items())
    print(f"\nthe product {_CEILING_SHAPE} reaches, GFLOP/s: {found}")
    print("\none image, 100 passes, by part (microseconds):")
    for name, seconds in parts.items():
        print(f"  {name:<42}{seconds * 1e6:>8.0f}")
    print(f"\na deterministic answer takes {deterministic:.2f} times a bare forward with softmax")


def _batches(digits: Sequence[Pixels], size: int) -> list[list[Pixels]]:
    """The digits again and again, in batches of a size, until a batch begins with the first."""
    count = math.lcm(len(digits), size) // size
    endless = itertools.cycle(digits)
    return [list(itertools.islice(endless, size)) for _ in range(count)]


def _measure(
    network: MLP,
    engine: ReluMlpEngine,
    batches: Sequence[Sequence[Pixels]],
    T: int,
    rounds: int,
    ceiling: float,
) -> Row:
    # Each call has the next batch: digits differ in how many units they leave alive.
    ours = itertools.cycle(batches)
    inputs = [normalise(np.stack(batch), network.config) for batch in batches]
    theirs, expanded = itertools.cycle(inputs), itertools.cycle(inputs)
    textbook_network = _as_sequential(network)
    seeds = random.Random(0)  # nosec B311: the same in every run

    def run_engine() -> None:
        batch = next(ours)
        images = engine.prepare(batch, [Passes(T, seeds.getrandbits(32)) for _ in batch])
        for probs in engine.sample([PassRange(image, 0, T) for image in images]):
            summarise(probs)

    variants: dict[str, Callable[[], object]] = {
        "engine": run_engine,
        "textbook": lambda: _textbook(textbook_network, next(theirs), T),
        "expansion": lambda: _expansion(textbook_network, next(expanded), T),
    }
    times = _time_rounds(variants, rounds)
    seconds = median(times["engine"])
    ratios = [slow / fast for slow, fast in zip(times["textbook"], times["engine"], strict=True)]
    size = len(batches[0])
    gflops = size * _nominal_flops(network, T) / seconds / 1e9
    timings = {name: _timing(values) for name, values in times.items()}
    return Row(
        size,
        T,
        **timings,
        speedup=median(ratios),
        gflops=gflops,
        share_of_ceiling=gflops / ceiling,
    )


def _textbook(network: nn.Sequential, x: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """N eager forward passes with dropout active, then mean and variance."""
    with torch.inference_mode():
        probs = torch.stack([network(x).softmax(dim=1) for _ in range(T)])
        return torch.var_mean(probs, dim=0)


def _expansion(network: nn.Sequential, x: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """All passes as one batch through the whole network, as libraries do."""
    with torch.inference_mode():
        probs = network(x.repeat(T, 1)).softmax(dim=1).view(T, len(x), -1)
        return torch.var_mean(probs, dim=0)


def _as_sequential(network: MLP) -> nn.Sequential:
    """The network as a textbook has it, with `nn.Dropout` modules that are switched on."""
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
    """GFLOP/s of the largest product of the network, by every float32 path that torch has here."""
    rows, inputs, outputs = _CEILING_SHAPE
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs)
    variants: dict[str, Callable[[], object]] = {
        "F.linear": lambda: F.linear(x, weight, bias),
        "addmm": lambda: torch.addmm(bias, x, weight_t),
    }
    weight_t = weight.T.contiguous()
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
    return {name: flops / min(values) / 1e9 for name, values in times.items()}


def _measure_deterministic(
    network: MLP, engine: ReluMlpEngine, pixels: Pixels, rounds: int
) -> float:
    """Time of a deterministic answer over a bare eager forward with softmax, input ready."""
    x = normalise(pixels, network.config)

    def bare() -> None:
        with torch.inference_mode():
            network(x).softmax(dim=1)

    times = _time_rounds({"engine": lambda: engine.predict_probs(pixels), "bare": bare}, rounds)
    return median(a / b for a, b in zip(times["engine"], times["bare"], strict=True))


def _split_time(engine: ReluMlpEngine, pixels: Pixels, T: int, rounds: int) -> dict[str, float]:
    """Where the time of one image goes: each part timed alone, on what the parts before gave."""
    width = row_bytes(engine.config)
    seeds = random.Random(0)  # nosec B311: the same in every run
    (image,) = engine.prepare([pixels], [Passes(T, 0)])
    asked = [PassRange(image, 0, T)]
    (probs,) = engine.sample(asked)
    thresholds = np.tile(drop_thresholds(engine.config), (T, 1))
    draws = random_bytes(0, 0, T, width)[:, : thresholds.shape[1]]
    units = len(image.active)
    (block,) = engine._blocks(asked)

    def all_but_softmax() -> None:
        with torch.inference_mode():
            engine._block_logits(block)

    times = _time_rounds(
        {
            f"layer 1, with {units} living units": lambda: engine.prepare([pixels], [Passes(T, 0)]),
            "random bytes": lambda: random_bytes(seeds.getrandbits(32), 0, T, width),
            "bytes compared with the rates": lambda: np.greater_equal(draws, thresholds),
            "masks applied, products": all_but_softmax,
            "softmax": lambda: engine.sample(asked),
            "statistics": lambda: summarise(probs),
        },
        rounds,
    )
    parts = {name: median(values) for name, values in times.items()}
    # The last two were timed with what comes before them.
    parts["softmax"] -= parts["masks applied, products"]
    for name in ("random bytes", "bytes compared with the rates"):
        parts["masks applied, products"] -= parts[name]
    return parts


def _time_rounds(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call of each variant, in each round."""
    repeats = {}
    for name, call in variants.items():
        call()
        started = time.perf_counter()
        call()
        seconds = time.perf_counter() - started
        repeats[name] = max(1, int(_LEAST_SECONDS / seconds))
        if seconds > _LONG_SECONDS:
            rounds = min(rounds, 3)
    times: dict[str, list[float]] = {name: [] for name in variants}
    shuffle = random.Random(0)  # nosec B311: the same in every run
    for _ in range(rounds):
        order = list(variants)
        shuffle.shuffle(order)
        for name in order:
            call = variants[name]
            started = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((time.perf_counter() - started) / repeats[name])
    return times


def _timing(values: list[float]) -> Timing:
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return Timing(low, middle, high)


def _print_rows(rows: Sequence[Row]) -> None:
    print(
        f"{'images':>6} {'passes':>6} {'engine ms (quartiles)':>26} {'textbook ms':>12} "
        f"{'expansion ms':>13} {'speed-up':>9} {'GFLOP/s':>8} {'of ceiling':>10}"
    )
    for row in rows:
        t = row.engine
        spread = f"{t.median * 1e3:.3f} ({t.lower_quartile * 1e3:.3f}-{t.upper_quartile * 1e3:.3f})"
        print(
            f"{row.images:>6} {row.passes:>6} {spread:>26} {row.textbook.median * 1e3:>12.2f} "
            f"{row.expansion.median * 1e3:>13.2f} {row.speedup:>8.1f}x {row.gflops:>8.0f} "
            f"{row.share_of_ceiling:>9.0%}"
        )
