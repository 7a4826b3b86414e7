"""The engine against a float64 textbook computation, and its bits, which nothing may change.

`python -m tests.model.engines.test_relu_mlp` prints the digests of all requests' answers, for the
test that compares them with another process.
"""

import hashlib
import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.digits.preprocessing import Pixels, normalise, preprocess_image
from model.engines.relu_mlp import (
    BLOCK_ROWS,
    DeviceEngine,
    DeviceError,
    Engine,
    PassRange,
    PrecisionError,
    Probs,
    build_engine,
)
from model.errors import CheckpointError
from model.literals import MAX_SEED, Estimator, Precision
from model.network import MLP, MLPConfig
from model.sampling.masks import Passes, draw_masks, dropped_units
from model.uncertainty.statistics import mean, variance
from tests.samples.draw import DIGITS, draw_digit, draw_strokes

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[3]

# Of mean and of variance. bfloat16 has 8 significant bits and logits are of size tens: 2.4e-3 and
# 1.3e-3 were measured, on one image of 100; half of them are below 2e-5.
TOLERANCES: dict[Precision, tuple[float, float]] = {
    "float32": (1e-5, 1e-5),
    "bfloat16": (5e-3, 3e-3),
}

Kind = tuple[str, Precision]
KINDS: list[Kind] = [
    ("cpu", "float32"),
    ("cpu", "bfloat16"),
    ("rows vary", "float32"),  # as where a row's bits depend on the number of rows
    ("rows vary", "bfloat16"),
    ("other device", "float32"),  # what other devices do, on the CPU
    ("other device", "bfloat16"),
]
if torch.cuda.is_available():
    KINDS += [("cuda", "float32"), ("cuda", "bfloat16")]
BOTH: tuple[Estimator, ...] = ("independent", "balanced")
RATES = (77 / 256, 26 / 256, 128 / 256, 51 / 256)
# Widths that fill no vector, one hidden layer only, and layers of a single unit.
LAYER_SIZES = [
    (784, 33, 17, 5, 3),
    (784, 40, 10),
    (784, 100, 67, 41, 19, 10),
    (784, 512, 1, 7, 2),
    (784, 1, 1, 2),
]
PASS_COUNTS = (1, 2, 3, 4, 5, 10, 50, 100, 127, 128, 129, 255, 256, 257, 300, 1000)


def build(kind: Kind, network: MLP) -> Engine:
    where, precision = kind
    if where == "other device":
        return DeviceEngine(network, torch.device("cpu"), precision)
    try:
        engine = build_engine(network, "cpu" if where == "rows vary" else where, precision)
    except PrecisionError:
        pytest.skip("this processor has no bfloat16 products")
    if where == "rows vary":
        engine._rows_vary = False
    return engine


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="module")
def engine(kind: Kind, one_thread: None, default_checkpoint: Checkpoint) -> Engine:
    return build(kind, default_checkpoint.network)


@pytest.fixture(scope="module")
def cpu_engine(one_thread: None, default_checkpoint: Checkpoint) -> Engine:
    return Engine(default_checkpoint.network)


def make_network(layer_sizes: tuple[int, ...], *, rates: tuple[float, ...] = RATES) -> MLP:
    """A random network whose answers are neither certain nor all alike."""
    hidden = len(layer_sizes) - 2
    labels = tuple(f"class {number}" for number in range(layer_sizes[-1]))
    network = MLP(MLPConfig(layer_sizes, rates[:hidden], (28, 28), labels, mean=0.3, std=0.25))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 1.5 / math.sqrt(parameter.shape[-1])
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return network


CLEAR_AND_SCRAWLED = 40  # of the images below, the first so many


@cache
def draw_images() -> tuple[Pixels, ...]:
    """100 images: clear, scrawled, ambiguous in two ways, rotated, noise, all black, all white."""
    generator = np.random.default_rng(0)
    clear = [
        preprocess_image(np.array(draw_digit(number % 10, jitter=0.015, seed=number)))
        for number in range(30)
    ]
    scrawled = [
        preprocess_image(np.array(draw_digit(digit, jitter=0.05, seed=digit)))
        for digit in range(10)
    ]
    pairs = [(3, 5), (4, 9), (0, 6), (1, 7), (5, 6), (2, 7), (3, 8), (0, 8), (7, 9), (2, 3)]
    overlaid = [
        preprocess_image(np.array(draw_strokes([*DIGITS[one], *DIGITS[other]])))
        for one, other in pairs
    ]
    blended = [clear[one] // 2 + clear[other] // 2 for one, other in pairs]
    rotated = [np.array(Image.fromarray(clear[n]).rotate(15 * (n + 1))) for n in range(20)]
    noise = [
        np.where(generator.random((28, 28)) < share, generator.integers(0, 256, (28, 28)), 0)
        for share in np.linspace(0.05, 1, 18)
    ]
    plain = [np.zeros((28, 28)), np.full((28, 28), 255)]
    images = [*clear, *scrawled, *overlaid, *blended, *rotated, *noise, *plain]
    return tuple(image.astype(np.uint8) for image in images)


def textbook_probs(
    network: MLP, pixels: Pixels, masks: Sequence[Tensor] | None = None
) -> NDArray[np.float64]:
    """Softmax of W relu(...) + b in float64, inverted dropout, (T, C) or without masks (1, C)."""
    config = network.config
    parameters = [tensor.double().numpy() for tensor in network.state_dict().values()]
    *hidden, (W_out, b_out) = zip(parameters[::2], parameters[1::2], strict=True)
    h = (pixels.reshape(1, -1) / 255.0 - config.mean) / config.std
    for index, (W, b) in enumerate(hidden):
        h = np.maximum(h @ W.T + b, 0)
        if masks is not None:
            h = np.where(masks[index].numpy(), h / (1 - config.dropout_rates[index]), 0)
    logits = h @ W_out.T + b_out
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


@cache
def reference(estimator: Estimator) -> tuple[NDArray[np.float64], ...]:
    """50 passes of the default network for each of the images, image i with seed i."""
    network = load_checkpoint(DEFAULT_CHECKPOINT).network
    return tuple(
        textbook_probs(network, pixels, draw_masks(network.config, seed, 50, estimator=estimator))
        for seed, pixels in enumerate(draw_images())
    )


def assert_agree(probs: Probs, expected: NDArray[np.float64], precision: Precision) -> None:
    of_mean, of_variance = TOLERANCES[precision]
    assert probs.dtype == np.float32
    assert mean(probs) == pytest.approx(expected.mean(axis=0), abs=of_mean)
    assert variance(probs) == pytest.approx(expected.var(axis=0, ddof=1), abs=of_variance)


# The right numbers


@pytest.mark.parametrize("estimator", BOTH)
def test_mean_and_variance_are_those_of_a_float64_textbook_computation(
    engine: Engine, kind: Kind, estimator: Estimator
) -> None:
    uncertain = 0
    for seed, (pixels, expected) in enumerate(
        zip(draw_images(), reference(estimator), strict=True)
    ):
        assert_agree(engine.sample_probs(pixels, Passes(50, seed, estimator)), expected, kind[1])
        uncertain += float(expected.var(axis=0).max()) > 0.01
    assert uncertain > 20  # or nothing was tested


def test_deterministic_answers_are_those_of_the_network(engine: Engine) -> None:
    network = engine.network
    for pixels in draw_images():
        with torch.inference_mode():
            expected = network(normalise(pixels, network.config))[0].softmax(dim=0).numpy()
        probs = engine.predict_probs(pixels)
        assert probs.shape == (10,)
        assert probs.dtype == np.float32
        # In float32 whatever the precision of the passes.
        assert probs == pytest.approx(expected, abs=1e-5)
        assert probs == pytest.approx(textbook_probs(network, pixels)[0], abs=1e-5)


@pytest.mark.parametrize("layer_sizes", LAYER_SIZES, ids=str)
@pytest.mark.parametrize("estimator", BOTH)
def test_networks_of_other_sizes_are_computed_as_the_textbook_does(
    kind: Kind, layer_sizes: tuple[int, ...], estimator: Estimator
) -> None:
    network = make_network(layer_sizes)
    engine = build(kind, network)
    for pixels in draw_images()[::9]:
        masks = draw_masks(network.config, 3, 50, estimator=estimator)
        probs = engine.sample_probs(pixels, Passes(50, 3, estimator))
        assert_agree(probs, textbook_probs(network, pixels, masks), kind[1])
        expected = textbook_probs(network, pixels)[0]
        assert engine.predict_probs(pixels) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("estimator", BOTH)
def test_a_network_whose_first_layer_is_silent_answers(kind: Kind, estimator: Estimator) -> None:
    network = make_network((784, 64, 32, 10))
    with torch.no_grad():
        next(layer.bias for layer in network.layers).fill_(-1000)  # type: ignore[operator]
    engine = build(kind, network)
    for pixels in draw_images()[::20]:
        masks = draw_masks(network.config, 3, 50, estimator=estimator)
        expected = textbook_probs(network, pixels, masks)
        assert_agree(engine.sample_probs(pixels, Passes(50, 3, estimator)), expected, kind[1])
        assert float(expected.var(axis=0).max()) > 0  # the second layer still drops units


@pytest.mark.parametrize("estimator", BOTH)
def test_rate_0_gives_the_same_bits_in_every_pass(kind: Kind, estimator: Estimator) -> None:
    for layer_sizes in ((784, 512, 256, 128, 10), (784, 33, 17, 5, 3)):
        engine = build(kind, make_network(layer_sizes, rates=(0.0, 0.0, 0.0)))
        for pixels in draw_images()[::20]:
            probs = engine.sample_probs(pixels, Passes(300, 0, estimator))
            assert len({row.tobytes() for row in probs}) == 1
            assert variance(probs).tolist() == [0] * layer_sizes[-1]
            of_mean, _ = TOLERANCES[kind[1]]
            assert probs[0] == pytest.approx(engine.predict_probs(pixels), abs=of_mean)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to test beside the CPU")
def test_cuda_is_among_what_is_tested() -> None:
    assert ("cuda", "float32") in KINDS


@pytest.mark.parametrize("estimator", BOTH)
def test_the_units_reported_as_dropped_are_those_that_were(
    engine: Engine, kind: Kind, estimator: Estimator
) -> None:
    network, pixels, passes = engine.network, draw_images()[40], Passes(50, 8, estimator)
    bits = np.unpackbits(dropped_units(network.config, passes), axis=1)
    ends = np.cumsum(network.config.hidden_sizes)
    masks = [torch.from_numpy(part == 0) for part in np.split(bits, ends, axis=1)[:-1]]
    assert_agree(
        engine.sample_probs(pixels, passes), textbook_probs(network, pixels, masks), kind[1]
    )


def test_rows_sum_to_1(engine: Engine) -> None:
    for pixels in draw_images()[::10]:
        probs = engine.sample_probs(pixels, Passes(100, 1))
        assert probs.sum(axis=1) == pytest.approx(1, abs=1e-6)
        assert float(probs.min()) >= 0


# The same bits, whatever else is asked


def test_a_pass_has_the_same_bits_in_answers_of_any_length(engine: Engine) -> None:
    for number in (7, 40, 99):
        pixels = draw_images()[number]
        whole = engine.sample_probs(pixels, Passes(1000, number))
        for count in PASS_COUNTS:
            probs = engine.sample_probs(pixels, Passes(count, number))
            assert probs.tobytes() == whole[:count].tobytes()


@pytest.mark.parametrize("estimator", BOTH)
def test_a_pass_has_the_same_bits_wherever_a_range_starts_and_stops(
    engine: Engine, estimator: Estimator
) -> None:
    pixels = draw_images()[40]
    (image,) = engine.prepare([pixels], [Passes(600, 5, estimator)])
    (whole,) = engine.sample([PassRange(image, 0, 600)])
    starts, lengths = (0, 1, 3, 50, 127, 255, 256, 300), (0, 1, 2, 3, 4, 5, 17, 128, 257, 300)
    for start, length in itertools.product(starts, lengths):
        (part,) = engine.sample([PassRange(image, start, start + length)])
        assert part.shape == (length, 10)
        assert part.tobytes() == whole[start : start + length].tobytes()


@pytest.mark.parametrize("layer_sizes", LAYER_SIZES, ids=str)
def test_networks_of_other_sizes_keep_their_bits_too(
    kind: Kind, layer_sizes: tuple[int, ...]
) -> None:
    engine = build(kind, make_network(layer_sizes))
    pixels = draw_images()[40], draw_images()[3]
    passes = [Passes(600, seed, estimator) for seed, estimator in enumerate(BOTH)]
    images = engine.prepare(pixels, passes)
    wholes = [engine.sample([PassRange(image, 0, 600)])[0] for image in images]
    for start, length in itertools.product((0, 1, 255, 300), (1, 2, 3, 5, 130, 300)):
        ranges = [PassRange(image, start, start + length) for image in images]
        for part, whole in zip(engine.sample(ranges), wholes, strict=True):
            assert part.tobytes() == whole[start : start + length].tobytes()


class Request(NamedTuple):
    """What a caller sends: which of the images, and which passes."""

    pixels: Pixels
    passes: Passes
    is_digit: bool


def draw_requests(count: int) -> list[Request]:
    generator = np.random.default_rng(1)
    images = draw_images()
    return [
        Request(
            images[number],
            Passes(
                # Few, many, and what just fills a block of rows or just does not.
                int(generator.choice([1, 2, 3, 4, 7, 10, 31, 50, 64, 100, BLOCK_ROWS, 257])),
                int(generator.integers(MAX_SEED, endpoint=True)),
                BOTH[generator.integers(2)],
            ),
            number < CLEAR_AND_SCRAWLED,
        )
        for number in (int(generator.integers(len(images))) for _ in range(count))
    ]


def assert_all_digits_differ(requests: Sequence[Request], digests: Sequence[str]) -> None:
    """Each request for a digit got bytes of its own, or nothing could be told from equal ones.

    What is no digit silences the last hidden layer, and then all passes are the same.
    """
    own = [each for request, each in zip(requests, digests, strict=True) if request.is_digit]
    assert len(own) > len(digests) / 4
    assert len(set(own)) == len(own)


def digest(probs: Probs) -> str:
    return hashlib.sha256(probs.tobytes()).hexdigest()


def digests_alone(engine: Engine, requests: Sequence[Request]) -> list[str]:
    return [digest(engine.sample_probs(request.pixels, request.passes)) for request in requests]


def digests_in_company(engine: Engine, requests: Sequence[Request], *, seed: int) -> list[str]:
    """In another order, in batches of 2 to 64, in pieces, between deterministic answers."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(requests)).tolist()
    digests = [""] * len(requests)
    while order:
        batch = [order.pop() for _ in range(min(len(order), int(generator.integers(2, 65))))]
        images = engine.prepare(
            [requests[number].pixels for number in batch],
            [requests[number].passes for number in batch],
        )
        engine.predict_probs(requests[batch[0]].pixels)
        cuts = [int(generator.integers(image.passes.count + 1)) for image in images]
        first = [PassRange(image, 0, cut) for image, cut in zip(images, cuts, strict=True)]
        last = [
            PassRange(image, cut, image.passes.count)
            for image, cut in zip(images, cuts, strict=True)
        ]
        last.reverse()
        heads, tails = engine.sample(first), engine.sample(last)[::-1]
        for number, head, tail in zip(batch, heads, tails, strict=True):
            digests[number] = digest(np.concatenate([head, tail]))
    return digests


@pytest.fixture(scope="module")
def digests_of_2000(cpu_engine: Engine) -> list[str]:
    return digests_alone(cpu_engine, draw_requests(2000))


def test_2000_requests_have_the_same_bytes_alone_and_in_any_company(
    cpu_engine: Engine, digests_of_2000: list[str]
) -> None:
    requests = draw_requests(2000)
    assert_all_digits_differ(requests, digests_of_2000)
    for seed in (2, 3):
        assert digests_in_company(cpu_engine, requests, seed=seed) == digests_of_2000


@pytest.mark.slow
def test_2000_requests_have_the_same_bytes_in_another_process(digests_of_2000: list[str]) -> None:
    command = [sys.executable, "-m", "tests.model.engines.test_relu_mlp"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == digests_of_2000


def test_every_kind_of_engine_gives_the_same_bytes_alone_and_in_any_company(
    engine: Engine,
) -> None:
    requests = draw_requests(100)
    alone = digests_alone(engine, requests)
    assert_all_digits_differ(requests, alone)
    assert digests_in_company(engine, requests, seed=2) == alone


def test_engines_built_anew_give_the_same_bytes(kind: Kind, engine: Engine) -> None:
    requests = draw_requests(30)
    assert digests_alone(build(kind, engine.network), requests) == digests_alone(engine, requests)


@pytest.mark.parametrize("layer_sizes", [(784, 512, 256, 128, 10), *LAYER_SIZES], ids=str)
@pytest.mark.parametrize("dependence", ["number of rows", "place of a row"])
def test_where_rows_do_vary_the_engine_finds_out_and_still_repeats_its_bytes(
    dependence: str, layer_sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix library whose low bits depend on how many rows there are, or on which it is.

    Neither is made up: rows of odd widths lie in memory at other places within a vector.
    """
    addmm: Callable[..., Tensor] = torch.addmm

    def moody_addmm(
        bias: Tensor, left: Tensor, weight: Tensor, *, out: Tensor | None = None
    ) -> Tensor:
        places = torch.arange(len(left))[:, None] % 16
        mood = places if dependence == "place of a row" else places + len(left)
        product = addmm(bias, left, weight) * (1 + 1e-6 * mood)
        return product if out is None else out.copy_(product)

    monkeypatch.setattr(torch, "addmm", moody_addmm)
    engine = Engine(make_network(layer_sizes))
    requests = draw_requests(60)
    alone = digests_alone(engine, requests)
    assert digests_in_company(engine, requests, seed=2) == alone
    pixels = draw_images()[40]
    whole = engine.sample_probs(pixels, Passes(300, 9))
    for count in (1, 3, 50, 257):
        assert engine.sample_probs(pixels, Passes(count, 9)).tobytes() == whole[:count].tobytes()


def test_where_rows_do_not_vary_the_fallback_gives_the_same_bytes(
    cpu_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_engine._rows_vary:
        pytest.skip("rows vary on this machine: the fallback is what is used")
    requests = draw_requests(100)
    alone = digests_alone(cpu_engine, requests)
    monkeypatch.setattr(cpu_engine, "_rows_vary", False)
    assert digests_alone(cpu_engine, requests) == alone


@pytest.mark.parametrize("estimator", BOTH)
def test_other_seeds_images_and_estimators_give_other_passes(
    engine: Engine, estimator: Estimator
) -> None:
    pixels = draw_images()[40]
    answers = {
        digest(engine.sample_probs(pixels, Passes(50, seed, estimator)))
        for seed in (0, 1, 2**32, MAX_SEED)
    }
    assert len(answers) == 4
    assert digest(engine.sample_probs(draw_images()[41], Passes(50, 0, estimator))) not in answers
    others = {digest(engine.sample_probs(pixels, Passes(50, 0, other))) for other in BOTH}
    assert len(others) == 2


# What the engine leaves alone


def test_neither_the_network_nor_a_global_generator_is_touched(kind: Kind) -> None:
    network = make_network((784, 64, 32, 10))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    before = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    engine = build(kind, network)
    for seed, pixels in enumerate(draw_images()[::10]):
        given = pixels.copy()
        engine.predict_probs(pixels)
        for estimator in BOTH:
            engine.sample_probs(pixels, Passes(20, seed, estimator))
        assert pixels.tobytes() == given.tobytes()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state(legacy=False)) == before[1]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_one_thread_multiplies_wherever_the_engine_is_used() -> None:
    code = (
        "import torch; from threadpoolctl import threadpool_info;"
        "from model.checkpoint import DEFAULT_CHECKPOINT, load_checkpoint;"
        "from model.engines.relu_mlp import Engine;"
        "Engine(load_checkpoint(DEFAULT_CHECKPOINT).network);"
        "print({x['num_threads'] for x in threadpool_info() if x['user_api'] == 'blas'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() in ("{1}", "set()"), done.stderr  # empty: a library it cannot see


def test_an_answer_is_not_overwritten_by_the_next(engine: Engine) -> None:
    images = draw_images()
    passes, other_passes = Passes(50, 0), Passes(50, 1)
    prepared = engine.prepare([images[40]], [passes])[0]
    answer = engine.sample([PassRange(prepared, 0, 50)])[0]
    probs = engine.predict_probs(images[40])
    kept = answer.tobytes(), probs.tobytes()
    engine.sample_probs(images[41], other_passes)
    engine.predict_probs(images[41])
    assert (answer.tobytes(), probs.tobytes()) == kept
    assert engine.sample([PassRange(prepared, 0, 50)])[0].tobytes() == kept[0]


def test_deterministic_answers_are_the_same_while_another_thread_samples(engine: Engine) -> None:
    images = draw_images()[::5]
    expected = [engine.predict_probs(pixels).tobytes() for pixels in images]
    sampled = engine.sample_probs(images[9], Passes(100, 0)).tobytes()
    stop, repeats = threading.Event(), []

    def sample() -> None:
        while not stop.is_set():
            repeats.append(engine.sample_probs(images[9], Passes(100, 0)).tobytes() == sampled)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        for _ in range(25):
            assert [engine.predict_probs(pixels).tobytes() for pixels in images] == expected
    finally:
        stop.set()
        sampler.join()
    assert repeats
    assert all(repeats)


def test_the_passes_that_were_asked_for_are_counted(kind: Kind) -> None:
    engine = build(kind, make_network((784, 20, 10)))
    images = engine.prepare(draw_images()[:2], [Passes(300, 0), Passes(5, 1, "balanced")])
    engine.sample([PassRange(images[0], 0, 300), PassRange(images[1], 0, 3)])
    engine.sample([PassRange(images[1], 3, 5)])
    engine.predict_probs(draw_images()[0])
    assert engine.passes_computed == 305


# What is refused


def test_a_processor_without_bfloat16_products_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(PrecisionError, match="use float32"):
        build_engine(make_network((784, 20, 10)), "cpu", "bfloat16")


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="no such device"):
        build_engine(make_network((784, 20, 10)), device)


def main() -> None:
    """Prints the digests of all requests' answers, alone, by a new engine."""
    torch.set_num_threads(1)
    engine = Engine(load_checkpoint(DEFAULT_CHECKPOINT).network)
    sys.stdout.write("\n".join(digests_alone(engine, draw_requests(2000))))


if __name__ == "__main__":
    main()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_without_relu_is_refused(device: str) -> None:
    """The engine leaves out the units that a ReLU silences; it would answer something else."""
    config = replace(make_network((784, 20, 10)).config, activation="linear")
    with pytest.raises(CheckpointError, match="are linear, and only ReLU networks can be served"):
        build_engine(MLP(config), device)
