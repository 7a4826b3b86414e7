"""The network against its formula, and the configurations it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from model.digits.preprocessing import preprocess_image
from model.errors import ShapeError
from model.network import MLP, MLPConfig, normalise, round_rate
from model.sampling.masks import draw_masks
from tests.model.digits.pictures import draw

RATE = 77 / 256
SMALL = MLPConfig(
    layer_sizes=(4, 6, 5, 3),
    dropout_rates=(RATE, 26 / 256),
    input_shape=(2, 2),
    labels=("a", "b", "c"),
)


@pytest.fixture
def network() -> MLP:
    network = MLP(SMALL)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


def textbook_logits(
    network: MLP, x: Tensor, masks: list[Tensor] | None = None
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


def test_the_default_network_has_567434_parameters() -> None:
    # 784*512+512 + 512*256+256 + 256*128+128 + 128*10+10 = 401920 + 131328 + 32896 + 1290
    assert MLP(MLPConfig()).parameter_count() == 567_434


def test_the_default_rates_are_the_multiples_of_1_256_nearest_to_a_fifth() -> None:
    assert MLPConfig().dropout_rates == (51 / 256,) * 3


def test_without_masks_the_network_is_its_plain_formula(network: MLP, x: Tensor) -> None:
    logits = network(x).detach().numpy()
    np.testing.assert_allclose(logits, textbook_logits(network, x), rtol=1e-5, atol=1e-5)


def test_a_linear_network_is_one_matrix(network: MLP, x: Tensor) -> None:
    linear = MLP(replace(SMALL, activation="linear"))
    linear.load_state_dict(network.state_dict())
    with torch.no_grad():
        W1, b1, W2, b2, W3, b3 = (tensor.double() for tensor in linear.state_dict().values())
        expected = x.double() @ (W3 @ W2 @ W1).T + (W3 @ (W2 @ b1 + b2) + b3)
        torch.testing.assert_close(linear(x).double(), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(linear(x), network(x), atol=0.1)


def test_with_masks_the_network_is_inverted_dropout(network: MLP, x: Tensor) -> None:
    masks = draw_masks(SMALL, 0, len(x))
    assert not all(bool(mask.all()) for mask in masks)
    logits = network(x, masks).detach().numpy()
    np.testing.assert_allclose(logits, textbook_logits(network, x, masks), rtol=1e-5, atol=1e-5)


def test_a_kept_unit_is_scaled_by_the_keep_rate_and_a_dropped_one_is_zero() -> None:
    """One input, two hidden units with identity weights: the logits are the hidden layer."""
    config = MLPConfig(
        layer_sizes=(1, 2, 2), dropout_rates=(RATE,), input_shape=(1, 1), labels=("a", "b")
    )
    network = MLP(config)
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
    network = MLP(config)
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
        outputs = network(torch.ones(passes, 1), draw_masks(config, 4, passes))
    standard_error = (256 * RATE / (1 - RATE) / passes) ** 0.5
    assert abs(float(outputs.double().mean()) - 256) < 5 * standard_error
    variance = float(outputs.double().var())
    # The variance of a sample variance of normal values is 2 sigma^4 / n.
    expected = 256 * RATE / (1 - RATE)
    assert abs(variance - expected) < 5 * expected * (2 / passes) ** 0.5


def test_a_mask_of_one_image_is_broadcast_over_the_batch(network: MLP, x: Tensor) -> None:
    masks = draw_masks(SMALL, 2, 1)
    repeated = [mask.expand(len(x), -1) for mask in masks]
    assert torch.equal(network(x, masks), network(x, repeated))


def test_masks_at_rate_0_change_no_bit(x: Tensor) -> None:
    network = MLP(MLPConfig((4, 6, 5, 3), (0.0, 0.0), input_shape=(2, 2), labels=("a", "b", "c")))
    assert torch.equal(network(x, draw_masks(network.config, 0, len(x))), network(x))


def test_train_and_eval_change_nothing(network: MLP, x: Tensor) -> None:
    masks = draw_masks(SMALL, 0, len(x))
    plain, dropped = network(x), network(x, masks)
    assert not torch.equal(plain, dropped)
    for mode in (True, False, True):
        network.train(mode)
        assert torch.equal(network(x), plain)
        assert torch.equal(network(x, masks), dropped)


def test_a_missing_mask_is_refused(network: MLP, x: Tensor) -> None:
    with pytest.raises(ShapeError, match="2 hidden layers need as many masks, not 1"):
        network(x, draw_masks(SMALL, 0, len(x))[:1])
    with pytest.raises(ShapeError, match="not 0"):
        network(x, [])


@pytest.mark.parametrize(
    ("rate", "rounded"), [(0.2, 51 / 256), (0.3, 77 / 256), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
)
def test_a_rate_is_rounded_to_the_nearest_multiple_of_1_256(rate: float, rounded: float) -> None:
    assert round_rate(rate) == rounded


def test_a_network_of_one_hidden_layer_is_accepted() -> None:
    config = MLPConfig(layer_sizes=(784, 8, 10), dropout_rates=(0.25,))
    assert config.hidden_sizes == (8,)
    assert MLP(config)(torch.zeros(1, 784)).shape == (1, 10)


@pytest.mark.parametrize("layer_sizes", [(784, 10), (784,), (784, 0, 10), (784, -1, 10)])
def test_layer_sizes_without_a_hidden_layer_or_below_1_are_refused(
    layer_sizes: tuple[int, ...],
) -> None:
    with pytest.raises(ShapeError, match="layer_sizes"):
        MLPConfig(layer_sizes=layer_sizes, dropout_rates=(0.25,) * (len(layer_sizes) - 2))


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_rate_too_few_or_too_many_is_refused(count: int) -> None:
    with pytest.raises(ShapeError, match=f"3 hidden layers need as many .*, not {count}"):
        MLPConfig(dropout_rates=(0.25,) * count)


@pytest.mark.parametrize("rate", [-1 / 256, 1.0, 1.5, float("nan"), float("inf")])
def test_a_rate_outside_0_to_1_is_refused(rate: float) -> None:
    with pytest.raises(ShapeError, match="dropout rate"):
        MLPConfig(dropout_rates=(0.25, 0.25, rate))


@pytest.mark.parametrize("rate", [0.2, 0.3, 1 / 512])
def test_a_rate_that_is_no_multiple_of_1_256_is_refused(rate: float) -> None:
    with pytest.raises(ShapeError, match="multiple of 1/256"):
        MLPConfig(dropout_rates=(0.25, rate, 0.25))


def test_an_input_shape_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"784 inputs .* \(28, 27\)"):
        MLPConfig(input_shape=(28, 27))


def test_as_many_labels_as_classes_are_needed() -> None:
    with pytest.raises(ShapeError, match="10 classes need as many labels, not 3"):
        MLPConfig(labels=("a", "b", "c"))


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ShapeError, match="one of relu, linear, not tanh"):
        MLPConfig(activation="tanh")  # type: ignore[arg-type]


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_a_std_that_is_not_above_0_is_refused(std: float) -> None:
    with pytest.raises(ShapeError, match="std must be above 0"):
        MLPConfig(std=std)


# The network's input


def test_normalising_scales_to_0_1_then_takes_mean_and_standard_deviation() -> None:
    config = MLPConfig(mean=0.25, std=0.5)
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[0, :3] = (255, 51, 102)
    x = normalise(pixels, config)
    assert (x.shape, x.dtype) == ((1, 784), torch.float32)
    # (1 - 0.25) / 0.5, (0.2 - 0.25) / 0.5, (0.4 - 0.25) / 0.5, (0 - 0.25) / 0.5
    assert x[0, :4].tolist() == pytest.approx([1.5, -0.1, 0.3, -0.5], abs=1e-6)
    assert set(x[0, 3:].tolist()) == {-0.5}


def test_a_mean_of_0_and_a_deviation_of_1_only_scale() -> None:
    pixels = np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
    x = normalise(pixels, MLPConfig(mean=0.0, std=1.0))
    assert x[0].numpy() == pytest.approx(pixels.reshape(-1) / 255, abs=1e-7)


def test_several_images_are_rows_in_their_order() -> None:
    images = np.stack([preprocess_image(draw(digit)) for digit in range(10)])
    config = MLPConfig()
    x = normalise(images, config)
    assert x.shape == (10, 784)
    for digit in range(10):
        assert torch.equal(x[digit], normalise(images[digit], config)[0])
    assert x.reshape(10, 28, 28)[4].numpy() == pytest.approx(
        (images[4] / 255 - 0.1307) / 0.3081, abs=1e-5
    )


def test_views_of_images_are_normalised_as_the_images_are() -> None:
    image = np.array(Image.fromarray(preprocess_image(draw(2))).rotate(90))
    config = MLPConfig()
    view = np.asfortranarray(image)[:, ::-1]
    assert torch.equal(normalise(view, config), normalise(view.copy(), config))


@pytest.mark.parametrize("side", [8, 20])
def test_networks_of_other_image_sizes_have_as_many_inputs(side: int) -> None:
    config = MLPConfig(
        layer_sizes=(side * side, 5, 10), dropout_rates=(0.5,), input_shape=(side, side)
    )
    assert normalise(np.zeros((3, side, side), np.uint8), config).shape == (3, side * side)
