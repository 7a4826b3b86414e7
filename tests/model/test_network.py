"""What a network consists of, the configurations it refuses, and its input."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from model.errors import ShapeError
from model.network import MLP, Linear, MLPConfig, normalise
from model.sampling.masks import DropoutSite, round_rate
from tests.model.digits.pictures import draw
from tests.samples.draw import preprocess_image


def zeros(config: MLPConfig) -> MLP:
    """A network whose weights and biases are all 0."""
    layers = [
        Linear(np.zeros(shape, np.float32), np.zeros(shape[0], np.float32))
        for shape in config.layer_shapes
    ]
    return MLP(config, tuple(layers))


def test_the_default_network_has_567434_parameters() -> None:
    # 784*512+512 + 512*256+256 + 256*128+128 + 128*10+10 = 401920 + 131328 + 32896 + 1290
    assert zeros(MLPConfig()).parameter_count() == 567_434


def test_the_default_rates_are_the_multiples_of_1_256_nearest_to_a_fifth() -> None:
    assert MLPConfig().dropout_rates == (51 / 256,) * 3


@pytest.mark.parametrize(
    ("rate", "rounded"), [(0.2, 51 / 256), (0.3, 77 / 256), (0.0, 0.0), (0.5, 0.5), (1.0, 1.0)]
)
def test_a_rate_is_rounded_to_the_nearest_multiple_of_1_256(rate: float, rounded: float) -> None:
    assert round_rate(rate) == rounded


def test_a_network_of_one_hidden_layer_is_accepted() -> None:
    config = MLPConfig(layer_sizes=(784, 8, 10), dropout_rates=(0.25,))
    assert config.hidden_sizes == (8,)
    assert [layer.weight.shape for layer in zeros(config).layers] == [(8, 784), (10, 8)]


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


# The layers


def test_masks_act_after_each_hidden_activation_at_its_rate() -> None:
    config = MLPConfig(dropout_rates=(77 / 256, 0.0, 0.5))
    assert config.dropout_sites == (
        DropoutSite(512, 77 / 256),
        DropoutSite(256, 0.0),
        DropoutSite(128, 0.5),
    )


@pytest.mark.parametrize("shape", [(512, 783), (784, 512), (512, 784, 1), (401_408,)])
def test_weights_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    network = zeros(MLPConfig())
    wrong = Linear(np.zeros(shape, np.float32), network.layers[0].bias)
    with pytest.raises(ShapeError, match="do not fit"):
        MLP(network.config, (wrong, *network.layers[1:]))


def test_a_bias_of_another_shape_and_a_layer_too_few_are_refused() -> None:
    network = zeros(MLPConfig())
    wrong = network.layers[0]._replace(bias=np.zeros(511, np.float32))
    for layers in ((wrong, *network.layers[1:]), network.layers[1:], ()):
        with pytest.raises(ShapeError, match="do not fit"):
            MLP(network.config, layers)


def test_weights_that_are_not_float32_are_refused() -> None:
    network = zeros(MLPConfig())
    weight, bias = network.layers[0]
    wrong: Any = Linear(weight, bias.astype(np.float64))
    with pytest.raises(ShapeError, match="float32"):
        MLP(network.config, (wrong, *network.layers[1:]))


# The network's input


def test_normalising_scales_to_0_1_then_takes_mean_and_standard_deviation() -> None:
    config = MLPConfig(mean=0.25, std=0.5)
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[0, :3] = (255, 51, 102)
    x = normalise(pixels, config)
    assert x.shape == (1, 784)
    assert x.dtype == np.float32
    # (1 - 0.25) / 0.5, (0.2 - 0.25) / 0.5, (0.4 - 0.25) / 0.5, (0 - 0.25) / 0.5
    assert x[0, :4].tolist() == pytest.approx([1.5, -0.1, 0.3, -0.5], abs=1e-6)
    assert set(x[0, 3:].tolist()) == {-0.5}


def test_a_mean_of_0_and_a_deviation_of_1_only_scale() -> None:
    pixels = np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)
    x = normalise(pixels, MLPConfig(mean=0.0, std=1.0))
    assert x[0] == pytest.approx(pixels.reshape(-1) / 255, abs=1e-7)


def test_several_images_are_rows_in_their_order() -> None:
    images = np.stack([preprocess_image(draw(digit)) for digit in range(10)])
    config = MLPConfig()
    x = normalise(images, config)
    assert x.shape == (10, 784)
    for digit in range(10):
        assert np.array_equal(x[digit], normalise(images[digit], config)[0])
    assert x.reshape(10, 28, 28)[4] == pytest.approx((images[4] / 255 - 0.1307) / 0.3081, abs=1e-5)


def test_views_of_images_are_normalised_as_the_images_are() -> None:
    image = np.array(Image.fromarray(preprocess_image(draw(2))).rotate(90))
    config = MLPConfig()
    view = np.asfortranarray(image)[:, ::-1]
    assert np.array_equal(normalise(view, config), normalise(view.copy(), config))


@pytest.mark.parametrize("side", [8, 20])
def test_networks_of_other_image_sizes_have_as_many_inputs(side: int) -> None:
    config = MLPConfig(
        layer_sizes=(side * side, 5, 10), dropout_rates=(0.5,), input_shape=(side, side)
    )
    assert normalise(np.zeros((3, side, side), np.uint8), config).shape == (3, side * side)
