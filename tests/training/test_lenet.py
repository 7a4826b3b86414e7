"""LeNet and the article's linear network: trained on a few patterns, then evaluated and served."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import training.calibrate
import training.evaluate
import training.experiments.rotate
from app.api.application import create_app
from app.settings import Settings
from model.checkpoint import AnyCheckpoint, Network, load_any_checkpoint
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import SequentialEngine
from model.layered import InputSpec, LayeredNetwork
from model.layers import Conv2dLayer, DropoutLayer, FlattenLayer, LinearLayer
from model.sampling.masks import Passes, draw_masks, split_by_site
from tests.app.api.request_bodies import as_json
from tests.conftest import connect
from tests.model.layered_networks import draw_network
from tests.training.patterns import CPU, IMAGES
from training.config import (
    CalibrateOptions,
    CalibrationRules,
    EvaluateOptions,
    RotateOptions,
    TrainConfig,
)
from training.experiments import ARTICLE
from training.network import TrainableLayers, sample_logits
from training.train import start, train

pytestmark = pytest.mark.usefixtures("one_thread")

LENET = TrainConfig(network="lenet", epochs=2, batch_size=50, averaging=0.5, validation_images=100)
LINEAR = replace(ARTICLE, epochs=4, batch_size=25, learning_rate=0.02, validation_images=100)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    output = tmp_path_factory.mktemp("lenet") / "net.safetensors"
    train(LENET, IMAGES, output, device=CPU)
    return output


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    output = tmp_path_factory.mktemp("linear") / "net.safetensors"
    train(LINEAR, IMAGES, output, device=CPU)
    return output


def test_lenet_learns_and_its_file_is_of_format_2(lenet: Path) -> None:
    checkpoint = load_any_checkpoint(lenet)
    card = checkpoint.card()
    assert card["format_version"] == 2
    assert card["training"]["recipe"]["network"] == "lenet"
    assert card["training"]["dropout_rates"] == [0, 0, 0.5]
    assert checkpoint.network.parameter_count() == 431_080
    assert isinstance(build_engine(checkpoint.network), SequentialEngine)
    assert checkpoint.metrics["validation"]["error"] < 0.2


def textbook(network: LayeredNetwork, pixels: Tensor) -> Tensor:
    """LeNet as Caffe's example has it, written by hand; no dropout."""
    w = [torch.from_numpy(network.tensors[name]) for name in network.config.tensor_shapes]
    mean, std = network.config.input.mean[0], network.config.input.std[0]
    h = (pixels[:, None] / 255 - mean) / std
    h = F.max_pool2d(F.conv2d(h, w[0], w[1]), 2)
    h = F.max_pool2d(F.conv2d(h, w[2], w[3]), 2)
    h = F.relu(h.flatten(1) @ w[4].T + w[5])
    return h @ w[6].T + w[7]


def test_lenet_is_its_formula(lenet: Path) -> None:
    network = load_any_checkpoint(lenet).network
    assert isinstance(network, LayeredNetwork)
    engine = build_engine(network)
    expected = textbook(network, torch.from_numpy(IMAGES.pixels[:5])).numpy()
    for image, logits in zip(IMAGES.pixels, expected, strict=False):
        np.testing.assert_allclose(engine.predict_logits(image), logits, rtol=1e-4, atol=1e-4)


def test_training_drops_what_the_engine_drops() -> None:
    """The passes of a training step are those of the engine with the same masks."""
    run = start(replace(LENET, dropout=(0.25, 0.5, 0.5)), IMAGES, CPU)
    network, passes = run.network, Passes(4, seed=3)
    assert isinstance(network, TrainableLayers)
    pixels = IMAGES.pixels[0]
    masks = [
        torch.from_numpy(mask)
        for mask in split_by_site(draw_masks(network.dropout_sites, passes), network.dropout_sites)
    ]
    assert [mask.shape[1] for mask in masks] == [20 * 12 * 12, 50 * 4 * 4, 500]
    with torch.inference_mode():
        x = network.normalise(torch.from_numpy(pixels[None]))
        logits = network(x, masks, torch.zeros(4, dtype=torch.int64))
    probs = sample_probs(build_engine(network.to_network()), pixels, passes)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), probs, atol=1e-5)


def test_a_resumed_lenet_ends_with_the_bytes_of_one_that_was_not(
    lenet: Path, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def stop(row: object) -> None:
        raise StoppedError

    output = tmp_path / "net.safetensors"
    with pytest.raises(StoppedError):
        train(LENET, IMAGES, output, device=CPU, on_epoch=stop)
    train(LENET, IMAGES, output, device=CPU, resume=True)
    assert output.read_bytes() == lenet.read_bytes()


def test_the_linear_network_is_computed_by_the_compiled_engine(linear: Path) -> None:
    checkpoint = load_any_checkpoint(linear)
    assert isinstance(build_engine(checkpoint.network), ReluMlpEngine)
    assert checkpoint.metrics["validation"]["error"] < 0.2


@pytest.mark.parametrize("name", ["lenet", "linear"])
async def test_it_is_calibrated_evaluated_and_served(
    name: str,
    request: pytest.FixtureRequest,
    few_images: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained, output = request.getfixturevalue(name), tmp_path / "net.safetensors"
    for module in (training.calibrate, training.evaluate):
        monkeypatch.setattr(module, "load_images", lambda *_: IMAGES)
    options = CalibrateOptions(checkpoint=trained, output=output, name=name)
    training.calibrate.calibrate(options, CalibrationRules(accepted_error=0.9))
    training.evaluate.evaluate(EvaluateOptions(output, quick=True, passes=2))
    assert f"{name} " in capsys.readouterr().out

    application = create_app(Settings(checkpoint=output))
    async with application.router.lifespan_context(application), connect(application) as client:
        answer = await mc_answer(client)
    checkpoint, pixels = load_any_checkpoint(output), IMAGES.pixels[0]
    probs = sample_probs(build_engine(checkpoint.network), pixels, Passes(50, 5))
    np.testing.assert_allclose(answer["mean"], probs.mean(axis=0), atol=1e-6)
    assert answer["model"]["name"] == name
    assert answer["decision"] is not None
    assert "digit" in answer


async def mc_answer(client: httpx.AsyncClient) -> dict[str, Any]:
    body = as_json(pixels=IMAGES.pixels[0].tolist(), preprocess="none", seed=5)
    response = await client.post("/predict/mc", **body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_the_report_says_what_the_network_is(lenet: Path, linear: Path) -> None:
    words = [
        training.evaluate.describe_network(load_any_checkpoint(path).network)
        for path in (lenet, linear)
    ]
    assert words[0].startswith("A network of 431,080 parameters: conv2d, max_pool2d, conv2d")
    assert words[1].endswith("784-512-256-128-10, with dropout after each hidden layer")


# The digit that turns


def whole_channels() -> Network:
    spec = InputSpec((28, 28, 1), "uint8", 1 / 255, channels="last", preparation="digit")
    layers = (
        *(Conv2dLayer(4, (9, 9), (9, 9)), DropoutLayer(0.5, whole_channels=True)),
        *(FlattenLayer(), DropoutLayer(0.25), LinearLayer(3)),
    )
    return draw_network(spec, *layers, classes=3)


@pytest.mark.parametrize("name", ["committed", "lenet", "linear", "whole channels"])
def test_logits_are_those_of_which_the_engine_samples_the_softmax(
    name: str, request: pytest.FixtureRequest, default_checkpoint: AnyCheckpoint
) -> None:
    if name == "whole channels":
        network = whole_channels()
    elif name == "committed":
        network = default_checkpoint.network
    else:
        network = load_any_checkpoint(request.getfixturevalue(name)).network
    passes, pixels = Passes(6, seed=2), IMAGES.pixels[1]
    logits = torch.from_numpy(sample_logits(network, pixels, passes))
    probs = sample_probs(build_engine(network), pixels, passes)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), probs, atol=1e-5)
    # Where a pass is certain, only the logits differ.
    relative = logits - logits.max(dim=1, keepdim=True).values
    ours = np.log(np.maximum(probs / probs.max(axis=1, keepdims=True), np.exp(-60.0)))
    np.testing.assert_allclose(relative.clamp(min=-60).numpy(), ours, rtol=1e-4, atol=1e-3)
    assert np.ptp(ours, axis=0).max() > 0.1  # or nothing was dropped


def test_a_digit_turns(
    lenet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(training.experiments.rotate, "load_images", lambda *_: IMAGES)
    options = RotateOptions(lenet, None, tmp_path, passes=10)
    training.experiments.rotate.rotate_digit(options)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:15]]
    assert [int(row[0]) for row in rows] == list(range(0, 180, 15))
    assert rows[0][1] == "1"  # upright, it is the pattern that was learnt
    figure = (tmp_path / "rotated_digit.svg").read_bytes()
    assert (tmp_path / "rotated_digit.png").stat().st_size > 1000
    training.experiments.rotate.rotate_digit(options)
    assert (tmp_path / "rotated_digit.svg").read_bytes() == figure
