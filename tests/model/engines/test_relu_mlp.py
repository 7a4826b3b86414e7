"""The CPU engine: its bytes, in any company, for any CPU, compiled in any way, and in NumPy.

`python -m tests.model.engines.test_relu_mlp COUNT` prints the digests of all requests' answers, for
the tests that compare them with another process.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model import compiling
from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint
from model.engines.protocol import sample_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import as_sequential
from model.literals import Activation, Estimator
from model.network import MLP, MLPConfig
from model.sampling.masks import Passes
from model.uncertainty.statistics import summarise
from tests.model.engines import reference
from tests.model.engines.networks import (
    BOTH,
    LAYER_SIZES,
    assert_all_digits_differ,
    digests_alone,
    digests_in_company,
    draw_images,
    draw_requests,
    make_network,
    mean,
    variance,
)

ROOT = Path(__file__).parents[3]
COUNT = 2000
NEEDED = ("engines.kernels", "sampling.masks")


@pytest.fixture(scope="module")
def digests_of_all(cpu_engine: ReluMlpEngine) -> list[str]:
    return digests_alone(cpu_engine, draw_requests(COUNT))


def test_2000_requests_have_the_same_bytes_alone_and_in_any_company(
    cpu_engine: ReluMlpEngine, digests_of_all: list[str]
) -> None:
    requests = draw_requests(COUNT)
    assert_all_digits_differ(requests, digests_of_all)
    for seed in (2, 3):
        assert digests_in_company(cpu_engine, requests, seed=seed) == digests_of_all


@pytest.mark.slow
@pytest.mark.timeout(400)  # each compiles
@pytest.mark.parametrize(
    "compiled",
    [{}, {"NUMBA_CPU_NAME": "generic"}, {"NUMBA_OPT": "0"}],
    ids=["as here", "for a CPU without AVX", "unoptimised"],
)
def test_requests_have_the_same_bytes_in_another_process(
    compiled: dict[str, str], digests_of_all: list[str]
) -> None:
    count = 200 if compiled else COUNT
    command = [sys.executable, "-m", "tests.model.engines.test_relu_mlp", str(count)]
    environ = {**os.environ, **compiled}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == digests_of_all[:count]


@pytest.mark.parametrize("estimator", BOTH)
def test_answers_are_those_of_numpy_in_the_written_order(
    cpu_engine: ReluMlpEngine, estimator: Estimator
) -> None:
    network = load_checkpoint(DEFAULT_CHECKPOINT).network
    for seed, pixels in enumerate(draw_images()):
        passes = Passes(3, seed * 10**13, estimator, 0.5 if seed % 3 == 0 else None)
        expected = reference.sample_probs(network, pixels, passes)
        assert sample_probs(cpu_engine, pixels, passes).tobytes() == expected.tobytes()
        logits = reference.predict_logits(network, pixels)
        assert cpu_engine.predict_logits(pixels).tobytes() == logits.tobytes()


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize("input_rate", [0.0, 51 / 256])
@pytest.mark.parametrize("layer_sizes", [*LAYER_SIZES, (784, 300, 270, 17)], ids=str)
def test_other_networks_have_the_bytes_of_the_written_order(
    layer_sizes: tuple[int, ...], input_rate: float, activation: Activation
) -> None:
    drawn = make_network(layer_sizes)
    config = MLPConfig(
        layer_sizes,
        drawn.config.dropout_rates,
        labels=drawn.config.labels,
        activation=activation,
        input_dropout_rate=input_rate,
    )
    network = MLP(config, drawn.layers)
    engine = ReluMlpEngine(network)
    for pixels, estimator in zip(draw_images()[40:60:10], BOTH, strict=True):
        passes = Passes(4, 7, estimator)
        expected = reference.sample_probs(network, pixels, passes)
        assert sample_probs(engine, pixels, passes).tobytes() == expected.tobytes()


def test_more_passes_and_units_than_fit_a_chunk_or_a_table() -> None:
    network = make_network((784, 700, 300, 10))
    engine, pixels, passes = ReluMlpEngine(network), np.full((28, 28), 255, np.uint8), Passes(70, 1)
    assert (engine.prepare(pixels, passes).inputs > 0).sum() > 128
    expected = reference.sample_probs(network, pixels, passes)
    assert sample_probs(engine, pixels, passes).tobytes() == expected.tobytes()


def test_means_agree_with_torchs_own_dropout(cpu_engine: ReluMlpEngine) -> None:
    """Over 100 images, within five standard errors."""
    network, T = load_checkpoint(DEFAULT_CHECKPOINT).network, 1000
    reference = as_sequential(network).train()  # of its modules, only dropout reacts
    apart = 0
    for seed, pixels in enumerate(draw_images()):
        ours = sample_probs(cpu_engine, pixels, Passes(T, seed)).astype(np.float64)
        x = torch.from_numpy(pixels.astype(np.float32)).expand(T, 1, -1, -1)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            theirs = reference(x).softmax(dim=1).double().numpy()
        error = np.sqrt((variance(ours) + variance(theirs)) / T)
        # What hardly ever happens has no normal deviation: 1e-3 is one pass of a thousand.
        assert (np.abs(mean(ours) - mean(theirs)) < 5 * error + 1e-3).all()
        apart += float(error.max()) > 0.003
    assert apart > 20  # or nothing was tested


def test_the_standard_error_is_how_much_means_of_other_seeds_differ(
    cpu_engine: ReluMlpEngine,
) -> None:
    T, seeds, apart = 50, range(500), 0
    for pixels in draw_images()[::10]:
        passes = [summarise(sample_probs(cpu_engine, pixels, Passes(T, seed))) for seed in seeds]
        means = np.stack([each.mean for each in passes])
        errors = [np.asarray(each.standard_error, np.float64) for each in passes]
        stated = np.sqrt(np.square(errors).mean(axis=0))
        likely = (means.mean(axis=0) > 0.05) & (stated > 0.003)  # rare ones are too skewed
        # The spread of 500 means is known to 3 %.
        assert stated[likely] == pytest.approx(means.std(axis=0)[likely], rel=0.16)
        apart += int(likely.sum())
    assert apart > 5  # or nothing was tested


if __name__ == "__main__":
    # What else is compiled takes as long again.
    compiling._MODULES = NEEDED  # type: ignore[assignment]
    compiling._declared = [
        (function, signature)
        for function, signature in compiling._declared
        if function.py_func.__module__.removeprefix("model.") in NEEDED
    ]
    engine = ReluMlpEngine(load_checkpoint(DEFAULT_CHECKPOINT).network)
    sys.stdout.write("\n".join(digests_alone(engine, draw_requests(COUNT)[: int(sys.argv[1])])))
