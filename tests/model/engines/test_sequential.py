"""The engine for torch's layers, the choice of an engine for a device, and what is refused."""

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from model.arrays import Pixels
from model.engines import build_engine
from model.engines.protocol import predict_probs, sample_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import Normalise, SequentialEngine, as_sequential
from model.errors import CheckpointError, DeviceError, PrecisionError
from model.literals import Estimator
from model.network import MLP
from model.sampling.masks import DropoutSite, Passes
from tests.model.engines.kinds import KINDS
from tests.model.engines.networks import (
    BOTH,
    draw_by_site,
    draw_images,
    make_network,
    mean,
    variance,
)

pytestmark = pytest.mark.usefixtures("one_thread")

RATE = 77 / 256


def make_convnet() -> nn.Sequential:
    """A small network with each kind of dropout, whose passes disagree."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            Normalise(0.13, 0.31),
            nn.Sequential(nn.Conv2d(1, 6, 5, stride=2), nn.BatchNorm2d(6), nn.ReLU()),
            nn.MaxPool2d(2),  # (6, 6, 6)
            nn.Dropout2d(RATE),
            nn.Conv2d(6, 8, 3),
            nn.Tanh(),
            nn.AvgPool2d(2),  # (8, 2, 2)
            nn.Dropout(0.1),  # served as 26/256
            nn.Flatten(),
            nn.Linear(32, 20),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(20, 4),
        )
        # Statistics of its own, not those of one that has seen nothing.
        pixels = torch.rand(64, 1, 28, 28) * 255
        with torch.no_grad():
            for _ in range(20):
                network(pixels)
            for layer in (network[9], network[12]):
                assert isinstance(layer, nn.Linear)
                layer.weight *= 4
    return network


def as_input(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32))[None, None]


# A convolutional network


def test_the_sites_are_the_dropouts_with_elements_or_channels() -> None:
    engine = SequentialEngine(make_convnet(), "cpu")
    assert engine.dropout_sites == (
        DropoutSite(6, RATE),
        DropoutSite(32, 26 / 256),
        DropoutSite(20, 0.5),
    )


def test_without_dropout_the_answer_is_that_of_the_network_in_inference_form() -> None:
    network = make_convnet()
    engine = SequentialEngine(network, "cpu")
    network.eval()
    for pixels in draw_images()[::9]:
        with torch.inference_mode():
            logits = network(as_input(pixels))[0]
        assert engine.predict_logits(pixels) == pytest.approx(logits.numpy(), abs=1e-5)
        expected = logits.softmax(dim=0).numpy()
        assert predict_probs(engine, pixels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("estimator", BOTH)
def test_each_pass_is_the_network_with_its_masks_in_place_of_dropout(estimator: Estimator) -> None:
    network = make_convnet().eval()
    engine = SequentialEngine(network, "cpu")
    pixels = draw_images()[40]
    probs = sample_probs(engine, pixels, Passes(100, 5, estimator))
    masks = draw_by_site(engine.dropout_sites, 5, 100, estimator=estimator)
    channels, elements, units = (torch.from_numpy(mask) for mask in masks)
    with torch.inference_mode():
        h = network[:3](as_input(pixels))
        h = h * channels[:, :, None, None] * 256 / (256 - 77)
        h = network[4:7](h)
        h = h * elements.reshape(-1, 8, 2, 2) * 256 / (256 - 26)
        h = network[8:11](h)
        expected = network[12](h * units * 2).softmax(dim=1).numpy()
    assert probs == pytest.approx(expected, abs=1e-5)
    assert float(variance(probs).max()) > 0.01  # or nothing was tested


def test_mean_and_variance_agree_with_4000_passes_of_torchs_own_dropout() -> None:
    network, passes = make_convnet(), 4000
    # Torch's own rate is not rounded to a multiple of 1/256.
    network[7] = nn.Dropout(26 / 256)
    engine = SequentialEngine(network, "cpu")
    network.eval()
    for layer in network:
        if isinstance(layer, nn.Dropout | nn.Dropout2d):
            layer.train()
    for pixels in draw_images()[::20]:
        ours = sample_probs(engine, pixels, Passes(passes, 0)).astype(np.float64)
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(0)
            answers = network(as_input(pixels).expand(passes, -1, -1, -1)).softmax(dim=1)
        theirs = answers.double().numpy()
        error = np.sqrt((variance(ours) + variance(theirs)) / passes)
        assert (np.abs(mean(ours) - mean(theirs)) < 5 * error + 1e-6).all()
        # The standard errors of the variances come from the fourth moments.
        fourths = [((p - mean(p)) ** 4).mean(axis=0) - variance(p) ** 2 for p in (ours, theirs)]
        error = np.sqrt((fourths[0] + fourths[1]) / passes)
        assert (np.abs(variance(ours) - variance(theirs)) < 5 * error + 1e-6).all()


@pytest.mark.parametrize("estimator", BOTH)
def test_a_pass_of_a_convnet_has_the_same_bits_wherever_a_range_starts_and_stops(
    estimator: Estimator,
) -> None:
    engine = SequentialEngine(make_convnet(), "cpu")
    image = engine.prepare(draw_images()[40], Passes(300, 5, estimator))
    whole = engine.sample(image, 0, 300)
    for start, length in itertools.product((0, 1, 50, 63, 64, 150), (0, 1, 2, 17, 64, 129)):
        part = engine.sample(image, start, start + length)
        assert part.tobytes() == whole[start : start + length].tobytes()


def test_the_network_is_copied_and_stays_as_it_was() -> None:
    network = make_convnet()
    engine = SequentialEngine(network, "cpu")
    assert network.training
    pixels = draw_images()[40]
    before = sample_probs(engine, pixels, Passes(50, 1)).tobytes()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert sample_probs(engine, pixels, Passes(50, 1)).tobytes() == before


def test_images_of_another_shape_are_computed() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    engine = SequentialEngine(network, "cpu", input_shape=(1, 3, 4))
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert sample_probs(engine, pixels, Passes(5, 0)).shape == (5, 3)


# Networks that are refused


class Doubling(nn.ReLU):
    """Says that it is a ReLU and computes something else."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * input


def dense(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), *layers, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: dense(nn.Dropout(0.5), nn.Bilinear(8, 8, 8)), "kind Bilinear are not supported"),
        (lambda: dense(nn.AlphaDropout(0.5)), "kind AlphaDropout are not supported"),
        (lambda: dense(nn.Dropout(0.5), nn.Sequential(nn.LSTM(8, 8))), "kind LSTM"),
        (lambda: dense(nn.Dropout(0.5), Doubling()), "kind Doubling"),
        (
            lambda: dense(nn.Dropout(0.5), nn.BatchNorm1d(8, track_running_stats=False)),
            "BatchNorm1d without running statistics",
        ),
        (lambda: dense(nn.ReLU()), "no dropout"),
        (lambda: dense(nn.Dropout(1.0)), "a dropout rate of 1.0"),
        (lambda: dense(nn.Dropout(0.999)), "a dropout rate of 0.999"),
        (lambda: dense(nn.Dropout2d(0.5)), "Dropout2d needs channels"),
        (lambda: dense(nn.Dropout(0.5), nn.Linear(9, 8)), "cannot compute an image"),
        (lambda: nn.Sequential(nn.Linear(784, 8), nn.Dropout(0.5)), "cannot compute an image"),
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5)), "shape (1, 2, 26, 26)"),
    ],
)
def test_a_network_that_cannot_be_computed_is_refused_with_one_line(
    make: Callable[[], nn.Sequential], reason: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        SequentialEngine(make(), "cpu")
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


# Devices


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device to test besides the CPU")
def test_cuda_is_among_what_is_tested() -> None:
    assert ("cuda", "float32") in KINDS


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match="no such device"):
        build_engine(make_network((784, 20, 10)), device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "meta"])
def test_bfloat16_without_cuda_is_refused(device: str) -> None:
    with pytest.raises(PrecisionError, match="use float32"):
        build_engine(make_network((784, 20, 10)), device, "bfloat16")


def test_the_cpu_has_its_own_engine_and_every_other_device_the_general_one() -> None:
    network = make_network((784, 20, 10))
    linear = MLP(replace(network.config, activation="linear"), network.layers)
    for each in (network, linear):
        assert isinstance(build_engine(each), ReluMlpEngine)
        assert isinstance(build_engine(each, "cpu:0"), SequentialEngine)


def test_where_torch_is_missing_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "model.engines.sequential")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DeviceError, match=r"pip install 'dropserve\[torch\]'"):
        build_engine(make_network((784, 20, 10)), "cuda")


def test_building_the_layers_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    as_sequential(make_network((784, 20, 10)))
    assert torch.equal(torch.get_rng_state(), before)
