"""Networks of any layers: their files, the engine that computes them, and what is refused."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import save

from model.checkpoint import (
    METADATA_KEY,
    AnyCheckpoint,
    load_any_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from model.engines import build_engine
from model.engines.protocol import Engine, sample_probs
from model.engines.relu_mlp import ReluMlpEngine
from model.engines.sequential import SequentialEngine, as_sequential
from model.errors import CheckpointError, ShapeError
from model.layered import InputSpec, LayeredConfig, LayeredNetwork, as_mlp
from model.layers import (
    AveragePool2dLayer,
    BatchNormLayer,
    Conv2dLayer,
    DropoutLayer,
    FlattenLayer,
    Layer,
    LinearLayer,
    ReluLayer,
    TanhLayer,
)
from model.sampling.masks import DropoutSite, Passes, draw_masks, split_by_site
from tests.model.layered_networks import RATE, convnet, draw_network, tabular

RELU_OR_NOT: tuple[tuple[Layer, ...], ...] = ((ReluLayer(),), ())


def write(path: Path, network: LayeredNetwork, card: Any) -> None:
    path.write_bytes(save(dict(network.tensors), metadata={METADATA_KEY: json.dumps(card)}))


def card_of(network: LayeredNetwork) -> Any:
    return json.loads(json.dumps(AnyCheckpoint(network).card()))


def refusal_of(path: Path) -> str:
    """The message of the refusal; empty if the file is read."""
    try:
        load_any_checkpoint(path)
    except CheckpointError as error:
        return str(error)
    return ""


# Files


@pytest.mark.parametrize("make", [convnet, tabular])
def test_a_saved_network_comes_back_whole(tmp_path: Path, make: Any) -> None:
    network, path = make(), tmp_path / "net.safetensors"
    checkpoint = AnyCheckpoint(network, training={"name": "birds"})
    version = save_checkpoint(path, checkpoint)
    found = load_any_checkpoint(path)
    assert isinstance(found.network, LayeredNetwork)
    assert found.network.config == network.config
    assert (found.name, found.version, found.card()) == ("birds", version, checkpoint.card())
    assert found.card()["format_version"] == 2
    for name, tensor in network.tensors.items():
        assert np.array_equal(found.network.tensors[name], tensor)
    before = path.read_bytes()
    save_checkpoint(path, found)
    assert path.read_bytes() == before


def test_commands_for_mlps_refuse_it_in_one_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "net", AnyCheckpoint(convnet()))
    with pytest.raises(CheckpointError, match="imported network") as caught:
        load_checkpoint(tmp_path / "net")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("input", "shape"), [9, 8, "3"]),
        (("input", "shape"), [9, 8, 2**60]),
        (("input", "shape"), [1] * 9),
        (("input", "shape"), []),
        (("input", "shape"), None),
        (("input", "dtype"), "float64"),
        (("input", "dtype"), []),
        (("input", "scale"), 0),
        (("input", "scale"), "1"),
        (("input", "scale"), 10**400),
        (("input", "mean"), [0.1, 0.2]),
        (("input", "mean"), [float("nan")]),
        (("input", "std"), [0.0]),
        (("input", "std"), 1.0),
        (("input", "channels"), "middle"),
        (("input", "preparation"), "digit"),
        (("input", "code"), "x"),
        (("input",), []),
        (("labels",), "abcd"),
        (("labels",), ["a", "b", "c"]),
        (("labels",), [0, 1, 2, 3]),
        (("layers",), {}),
        (("layers",), [{"kind": "relu"}] * 1001),
        (("layers", 0, "outputs"), 7),
        (("layers", 0, "kernel"), [30, 2]),
        (("layers", 0), {"kind": "lambda"}),
        (("layers", 5, "outputs"), 2**22),
    ],
)
def test_a_damaged_description_is_refused_in_one_line(
    tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    network, path = convnet(), tmp_path / "net.safetensors"
    card = card_of(network)
    *parents, last = place
    document = card["config"]
    for key in parents:
        document = document[key]
    document[last] = value
    write(path, network, card)
    with pytest.raises(CheckpointError) as caught:
        load_any_checkpoint(path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_tensor_of_another_shape_is_refused(tmp_path: Path) -> None:
    network, path = convnet(), tmp_path / "net.safetensors"
    card = card_of(network)
    card["config"]["layers"][10]["outputs"] = 19
    write(path, network, card)
    with pytest.raises(CheckpointError, match=r"layers\.10\.bias of shape \(20,\), not \(19,\)"):
        load_any_checkpoint(path)


def test_a_huge_description_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes((9 * 2**20).to_bytes(8, "little") + b"[" * (9 * 2**20))
    with pytest.raises(CheckpointError, match="description of more than"):
        load_any_checkpoint(path)


def test_changed_bytes_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, AnyCheckpoint(convnet()))
    content, generator = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(header)] = generator.choice(b'0123456789eE-"[]{}:,xtf\xff')
        path.write_bytes(changed)
        message = refusal_of(path)
        assert len(message.splitlines()) <= 1
        refused += bool(message)
    assert 250 < refused < 500


# Engines


def expected_logits(inputs: Any, network: LayeredNetwork, masks: list[torch.Tensor]) -> Any:
    """`convnet` computed with torch's functions, (T, C); one mask for each dropout."""
    t = {name: torch.from_numpy(tensor) for name, tensor in network.tensors.items()}
    h = torch.from_numpy(inputs.astype(np.float32)) / 255
    h = ((h - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor([0.3, 0.2, 0.1])).permute(2, 0, 1)
    h = F.pad(h[None], (0, 1, 1, 1))
    h = F.conv2d(h, t["layers.0.weight"], t["layers.0.bias"], dilation=(2, 1), groups=3)
    h = h * t["layers.1.scale"][:, None, None] + t["layers.1.shift"][:, None, None]
    h = F.max_pool2d(F.pad(h.tanh(), (0, 0, 0, 1), value=-9.0), 2)
    h = h * masks[0][:, :, None, None]
    h = F.avg_pool2d(F.conv2d(h, t["layers.5.weight"], t["layers.5.bias"]), (2, 1), 1)
    h = h.flatten(1) * masks[1]
    h = F.linear(h, t["layers.10.weight"], t["layers.10.bias"]).relu()
    h = (h * t["layers.12.scale"] + t["layers.12.shift"]) * masks[2]
    return F.linear(h, t["layers.14.weight"], t["layers.14.bias"])


def test_every_kind_of_layer_is_computed_as_torchs_functions_do() -> None:
    network = convnet()
    engine = build_engine(network)
    assert isinstance(engine, SequentialEngine)
    sites = (DropoutSite(6, RATE), DropoutSite(16, 0.25), DropoutSite(20, 0.5))
    assert engine.dropout_sites == sites
    inputs = np.random.default_rng(1).integers(0, 256, (9, 8, 3), np.uint8)
    no_masks = [torch.ones(1, site.units) for site in sites]
    logits = expected_logits(inputs, network, no_masks)[0].numpy()
    assert engine.predict_logits(inputs) == pytest.approx(logits, abs=1e-5)
    passes = Passes(70, 3)
    masks = [
        torch.from_numpy(mask) / (1 - site.rate)
        for mask, site in zip(split_by_site(draw_masks(sites, passes), sites), sites, strict=True)
    ]
    expected = expected_logits(inputs, network, masks).softmax(dim=1).numpy()
    assert sample_probs(engine, inputs, passes) == pytest.approx(expected, abs=1e-5)
    assert float(expected.std(axis=0).max()) > 0.05  # or nothing was tested


def in_torch(network: LayeredNetwork) -> Engine:
    return SequentialEngine(as_sequential(network), "cpu", input_shape=network.config.input.shape)


def test_an_mlp_of_any_inputs_is_computed_by_the_compiled_loops() -> None:
    network = tabular()
    compiled, reference = build_engine(network), in_torch(network)
    assert isinstance(compiled, ReluMlpEngine)
    for values in np.random.default_rng(2).normal(6, 8, (20, 12)).astype(np.float32):
        expected = reference.predict_logits(values)
        assert compiled.predict_logits(values) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        # The sites differ, since each hidden layer of an MLP is one; so the masks do.
        assert [site.rate for site in compiled.dropout_sites] == [RATE, 0.0, 0.5]
        mlp = as_mlp(network)
        assert mlp is not None
        same = SequentialEngine(as_sequential(mlp), "cpu", input_shape=(12,))
        passes = Passes(40, 1)
        probs = sample_probs(same, values, passes)
        assert sample_probs(compiled, values, passes) == pytest.approx(probs, abs=1e-5)


def digits(*middle: Layer, mean: float = 0.13, first: tuple[Layer, ...] = ()) -> LayeredNetwork:
    spec = InputSpec((28, 28), "uint8", 1 / 255, (mean,), (0.31,), preparation="digit")
    return draw_network(
        spec, *(FlattenLayer(), *first, LinearLayer(20), *middle, LinearLayer(10)), classes=10
    )


@pytest.mark.parametrize("activation", RELU_OR_NOT)
def test_an_mlp_for_pixels_is_an_mlp_with_its_own_normalisation(
    activation: tuple[Layer, ...],
) -> None:
    network = digits(*activation, DropoutLayer(0.5), first=(DropoutLayer(0.25),))
    mlp = as_mlp(network)
    assert mlp is not None
    config = mlp.config
    assert (config.mean, config.std, config.input_shape) == (0.13, 0.31, (28, 28))
    assert (config.input_dropout_rate, config.dropout_rates) == (0.25, (0.5,))
    assert config.activation == ("relu" if activation else "linear")
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28), np.uint8)
    compiled, reference = build_engine(network), in_torch(network)
    passes = Passes(30, 1)
    probs = sample_probs(reference, pixels, passes)
    assert sample_probs(compiled, pixels, passes) == pytest.approx(probs, abs=1e-5)


def test_other_networks_are_no_mlps() -> None:
    relu, half = ReluLayer(), DropoutLayer(0.5)
    assert as_mlp(digits(relu, half)) is not None
    for middle in (
        (TanhLayer(), half),
        (relu, BatchNormLayer(), half),
        (relu, half, half),
        (relu, half, LinearLayer(9), half),
    ):
        assert as_mlp(digits(*middle)) is None
    assert as_mlp(convnet()) is None
    last = replace(tabular().config.input, shape=(2, 2, 3), mean=(0.0,), std=(1.0,))
    layers = (FlattenLayer(), LinearLayer(5), half, LinearLayer(3))
    assert as_mlp(draw_network(last, *layers, classes=3)) is not None
    assert as_mlp(draw_network(replace(last, channels="last"), *layers, classes=3)) is None


# What contradicts itself


def test_tensors_that_do_not_fit_are_refused() -> None:
    network = tabular()
    name = "layers.0.weight"
    weight: Any = network.tensors[name]
    for wrong in (weight.T, weight.astype(np.float64)):
        with pytest.raises(ShapeError):
            LayeredNetwork(network.config, {**network.tensors, name: wrong})
    with pytest.raises(ShapeError):
        LayeredNetwork(network.config, {})


def test_a_network_that_would_take_minutes_for_an_input_is_refused() -> None:
    """A small file can describe it: these weights have 8 MB."""
    wide = Conv2dLayer(1, (1023, 1023), padding=(511, 511, 511, 511))
    layers = (wide, wide, AveragePool2dLayer((1024, 1024), (1, 1)), FlattenLayer(), LinearLayer(2))
    with pytest.raises(ShapeError, match="more than 4,294,967,296 multiplications"):
        LayeredConfig(InputSpec((1, 1024, 1024)), ("a", "b"), layers)
    pooled = (AveragePool2dLayer((1024, 1024), (1, 1)), FlattenLayer(), LinearLayer(2))
    with pytest.raises(ShapeError, match="multiplications"):
        LayeredConfig(InputSpec((1, 2048, 2048)), ("a", "b"), pooled)


def test_an_output_that_is_no_vector_of_classes_is_refused() -> None:
    with pytest.raises(ShapeError, match="does not fit 3 labels"):
        LayeredConfig(InputSpec((3, 4, 4)), ("a", "b", "c"), (ReluLayer(),))
    with pytest.raises(ShapeError, match="does not fit 1 labels"):
        LayeredConfig(InputSpec((1,)), ("a",), ())
