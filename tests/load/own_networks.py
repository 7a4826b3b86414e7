"""How fast networks of one's own are, 50 passes of a picture: `python -m tests.load.own_networks`.

The committed network, imported as a state dict, against the committed checkpoint; and LeNet, with
dropout before its last layer (Gal and Ghahramani 2016) and before both linear layers, against the
textbook's loop of forward passes. Rounds are paired: ratios are medians of those of each round.
Times are the processor's, so that other work on the machine does not count.
"""

import argparse
import contextlib
import io
import itertools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch
from safetensors.numpy import save_file

from app.api.examples import example_digits
from app.cli.bench_engine import median_ratio, textbook_passes, time_rounds
from app.cli.machine import describe_machine
from model.arrays import Pixels
from model.checkpoint import DEFAULT_CHECKPOINT, Network, load_any_checkpoint, load_checkpoint
from model.engines import build_engine
from model.engines.protocol import Engine, sample_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import as_sequential
from model.layered import InputSpec, LayeredNetwork
from model.layers import ReluLayer
from model.sampling.masks import Passes
from model.uncertainty.statistics import summarise
from tests.model.layered_networks import draw_network
from training.config import ImportOptions
from training.importing.command import import_network
from training.network import lenet

PASSES = 50
LARGEST_RATIO, LEAST_SPEEDUP = 1.05, 3.0


def imported() -> Network:
    """The committed network as a file that another program made, imported."""
    network = load_checkpoint(DEFAULT_CHECKPOINT).network
    config, names = network.config, [f"fc{number}" for number in range(len(network.layers))]
    words = [names[0]]
    for name, rate in zip(names[1:], config.dropout_rates, strict=True):
        words += ["relu", f"dropout:{rate}", name]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        file, output = Path(folder, "net.safetensors"), Path(folder, "imported.safetensors")
        tensors = {
            f"{name}.{kind}": getattr(layer, kind)
            for name, layer in zip(names, network.layers, strict=True)
            for kind in ("weight", "bias")
        }
        save_file(tensors, file)
        options = ImportOptions(
            file=file,
            output=output,
            dtype="uint8",
            scale=1 / 255,
            mean=(config.mean,),
            std=(config.std,),
            layers=tuple(words),
            input_shape=(784,),
        )
        import_network(options)
        return load_any_checkpoint(output).network


def draw_lenet(*rates: float) -> LayeredNetwork:
    """With random weights, which take as long as others."""
    spec = InputSpec((1, 28, 28), "uint8", 1 / 255, (0.1307,), (0.3081,), preparation="digit")
    return draw_network(spec, *lenet(10, rates, ReluLayer()), classes=10)


def answering(engine: Engine, digits: Sequence[Pixels]) -> Callable[[], object]:
    """Answers for all digits, each with a seed of its own."""
    seeds = itertools.count()

    def answer_all() -> None:
        for pixels in digits:
            summarise(sample_probs(engine, pixels, Passes(PASSES, next(seeds))))

    return answer_all


def looping(network: LayeredNetwork, digits: Sequence[Pixels]) -> Callable[[], Sequence[Any]]:
    """The textbook's loop for each of the digits."""
    module = as_sequential(network).train()
    inputs = [torch.from_numpy(each).view(1, 1, 28, 28) for each in digits]
    return lambda: [textbook_passes(module, each, PASSES) for each in inputs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    digits = example_digits()
    own, committed = (
        build_engine(network)
        for network in (imported(), load_checkpoint(DEFAULT_CHECKPOINT).network)
    )
    assert isinstance(own, ReluMlpEngine)
    print(f"{describe_machine()}; one thread, {PASSES} passes, median of {rounds} rounds\n")
    print("network                                   ms   compared with           ms   ratio")

    def compare(name: str, own: Engine, other: str, call: Callable[[], object]) -> float:
        variants = {"own": answering(own, digits), "other": call}
        times = time_rounds(variants, rounds, process_time)
        ratio = median_ratio(times["other"], times["own"])
        own_ms, other_ms = (median(times[each]) / len(digits) * 1e3 for each in ("own", "other"))
        print(f"{name:35}{own_ms:9.3f}   {other:17}{other_ms:9.3f}{ratio:7.2f}x")
        return ratio

    call = answering(committed, digits)
    ratios = [compare("imported 784-512-256-128-10", own, "the committed one", call)]
    for rates, words in (((0, 0, 0.5), "last layer"), ((0, 0.5, 0.5), "linear layers")):
        network = draw_lenet(*rates)
        name = f"LeNet, dropout before {words}"
        call = looping(network, digits)
        ratios.append(compare(name, build_engine(network), "the textbook's", call))
    if ratios[0] < 1 / LARGEST_RATIO or min(ratios[1:]) < LEAST_SPEEDUP:
        sys.exit(1)


if __name__ == "__main__":
    main()
