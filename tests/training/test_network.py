"""The trainable network against its formula, and its conversion to plain arrays and back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.errors import ShapeError
from model.network import MLPConfig
from tests.model.engines.torch_reference import draw_tensors
from training.network import TrainableMLP

RATE = 77 / 256
SMALL = MLPConfig(
    layer_sizes=(4, 6, 5, 3),
    dropout_rates=(RATE, 26 / 256),
    input_shape=(2, 2),
    labels=("a", "b", "c"),
)


@pytest.fixture
def network() -> TrainableMLP:
    network = TrainableMLP(SMALL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


def textbook_logits(
    network: TrainableMLP, x: Tensor, masks: list[Tensor] | None = None
) -> NDArray[np.float64]:
    """W2 relu(...) + b2 in float64, inverted dropout after each hidden activation."""
    h = x.numpy().astype(np.float64)
    weights = [tensor.numpy().astype(np.float64) for tensor in network.state_dict().values()]
    *hidden, (W, b) = zip(weights[::2], weights[1::2], strict=True)
    for index, (hidden_W, hidden_b) in enumerate(hidden):
        h = np.maximum(h @ hidden_W.T + hidden_b, 0)
        if masks is not None:
            kept = masks[index].numpy()
            h = np.where(kept, h / (1 - network.config.dropout_rates[index]), 0)
    return np.asarray(h @ W.T + b)


def test_without_masks_the_network_is_its_plain_formula(network: TrainableMLP, x: Tensor) -> None:
    logits = network(x).detach().numpy()
    np.testing.assert_allclose(logits, textbook_logits(network, x), rtol=1e-5, atol=1e-5)


def test_a_linear_network_is_one_matrix(network: TrainableMLP, x: Tensor) -> None:
    linear = TrainableMLP(replace(SMALL, activation="linear"))
    linear.load_state_dict(network.state_dict())
    with torch.no_grad():
        W1, b1, W2, b2, W3, b3 = (tensor.double() for tensor in linear.state_dict().values())
        expected = x.double() @ (W3 @ W2 @ W1).T + (W3 @ (W2 @ b1 + b2) + b3)
        torch.testing.assert_close(linear(x).double(), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(linear(x), network(x), atol=0.1)


def test_with_masks_the_network_is_inverted_dropout(network: TrainableMLP, x: Tensor) -> None:
    masks = draw_tensors(SMALL.dropout_sites, 0, len(x))
    assert not all(bool(mask.all()) for mask in masks)
    logits = network(x, masks).detach().numpy()
    np.testing.assert_allclose(logits, textbook_logits(network, x, masks), rtol=1e-5, atol=1e-5)


def test_a_kept_unit_is_scaled_by_the_keep_rate_and_a_dropped_one_is_zero() -> None:
    """One input, two hidden units with identity weights: the logits are the hidden layer."""
    config = MLPConfig(
        layer_sizes=(1, 2, 2), dropout_rates=(RATE,), input_shape=(1, 1), labels=("a", "b")
    )
    network = TrainableMLP(config)
    network.load_state_dict(
        {
            "layers.0.weight": torch.ones(2, 1),
            "layers.0.bias": torch.zeros(2),
            "layers.1.weight": torch.eye(2),
            "layers.1.bias": torch.zeros(2),
        }
    )
    logits = network(torch.tensor([[1.0]]), [torch.tensor([[True, False]])])
    # 1 / (1 - 77/256) = 256/179; 256/77 would be p and 1 - p exchanged.
    torch.testing.assert_close(logits.detach(), torch.tensor([[256 / 179, 0.0]]))


def test_the_expected_hidden_layer_is_that_without_dropout() -> None:
    """E[mask h / (1 - p)] = h, within 5 standard errors: Var = p / (1 - p) h^2."""
    config = MLPConfig(
        layer_sizes=(1, 256, 1), dropout_rates=(RATE,), input_shape=(1, 1), labels=("a",)
    )
    network = TrainableMLP(config)
    network.load_state_dict(
        {
            "layers.0.weight": torch.ones(256, 1),
            "layers.0.bias": torch.zeros(256),
            "layers.1.weight": torch.ones(1, 256),
            "layers.1.bias": torch.zeros(1),
        }
    )
    passes = 2000
    with torch.no_grad():
        outputs = network(torch.ones(passes, 1), draw_tensors(config.dropout_sites, 4, passes))
    standard_error = (256 * RATE / (1 - RATE) / passes) ** 0.5
    assert abs(float(outputs.double().mean()) - 256) < 5 * standard_error
    variance = float(outputs.double().var())
    # The variance of a sample variance of normal values is 2 sigma^4 / n.
    expected = 256 * RATE / (1 - RATE)
    assert abs(variance - expected) < 5 * expected * (2 / passes) ** 0.5


def test_a_mask_of_one_image_is_broadcast_over_the_batch(network: TrainableMLP, x: Tensor) -> None:
    masks = draw_tensors(SMALL.dropout_sites, 2, 1)
    repeated = [mask.expand(len(x), -1) for mask in masks]
    assert torch.equal(network(x, masks), network(x, repeated))


def test_rows_repeat_the_images_for_their_passes(network: TrainableMLP, x: Tensor) -> None:
    rows = torch.tensor([2, 0, 0, 1])
    generator = torch.Generator().manual_seed(0)
    masks = [
        torch.rand(4, units, generator=generator) > 0.3 for units in network.config.hidden_sizes
    ]
    torch.testing.assert_close(network(x, masks, rows), network(x[rows], masks))


def test_masks_at_rate_0_change_no_bit(x: Tensor) -> None:
    network = TrainableMLP(replace(SMALL, dropout_rates=(0.0, 0.0)))
    masks = draw_tensors(network.config.dropout_sites, 0, len(x))
    assert torch.equal(network(x, masks), network(x))


def test_train_and_eval_change_nothing(network: TrainableMLP, x: Tensor) -> None:
    masks = draw_tensors(SMALL.dropout_sites, 0, len(x))
    plain, dropped = network(x), network(x, masks)
    assert not torch.equal(plain, dropped)
    for mode in (True, False, True):
        network.train(mode)
        assert torch.equal(network(x), plain)
        assert torch.equal(network(x, masks), dropped)


def test_a_missing_mask_is_refused(network: TrainableMLP, x: Tensor) -> None:
    with pytest.raises(ShapeError, match="2 hidden layers need as many masks, not 1"):
        network(x, draw_tensors(SMALL.dropout_sites, 0, len(x))[:1])
    with pytest.raises(ShapeError, match="not 0"):
        network(x, [])


# Conversion


def test_the_plain_network_has_the_weights_and_the_configuration(network: TrainableMLP) -> None:
    plain = network.to_network()
    assert plain.config == SMALL
    assert len(plain.layers) == 3
    for layer, module in zip(plain.layers, network.layers, strict=True):
        assert np.array_equal(layer.weight, module.get_parameter("weight").detach().numpy())
        assert np.array_equal(layer.bias, module.get_parameter("bias").detach().numpy())


def test_there_and_back_gives_the_same_bits_and_gradients(network: TrainableMLP, x: Tensor) -> None:
    again = TrainableMLP.from_network(network.to_network())
    assert torch.equal(again(x), network(x))
    assert list(again.state_dict()) == list(network.state_dict())
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_both_conversions_copy(network: TrainableMLP, x: Tensor) -> None:
    plain = network.to_network()
    again = TrainableMLP.from_network(plain)
    expected = network(x).detach()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(again(x), expected)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    assert all(layer.weight.any() for layer in plain.layers)


def test_converting_draws_no_random_numbers(network: TrainableMLP) -> None:
    before = torch.get_rng_state()
    TrainableMLP.from_network(network.to_network())
    assert torch.equal(torch.get_rng_state(), before)
