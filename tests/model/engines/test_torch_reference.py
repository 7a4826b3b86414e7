"""MC dropout against single passes, a linear layer's closed form, and torch's own Dropout."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from model.arrays import Array
from model.checkpoint import Checkpoint
from model.errors import ShapeError
from model.literals import Estimator
from model.network import MLPConfig, normalise
from tests.model.engines.networks import mean, variance
from tests.model.engines.torch_reference import draw_tensors, sample_probs
from tests.samples.draw import DIGITS, FOUR_OR_NINE, STAR, draw_strokes, preprocess_image
from training.network import TrainableMLP

pytestmark = pytest.mark.usefixtures("one_thread")

# About 0.3: at one half, p and 1 - p exchanged would not show.
RATE = 77 / 256


def make_network(
    layer_sizes: tuple[int, ...], rates: tuple[float, ...], *, seed: int = 0
) -> TrainableMLP:
    """A network whose logits are moderate, so that no probability is lost in float32."""
    side = math.isqrt(layer_sizes[0])
    labels = tuple(str(number) for number in range(layer_sizes[-1]))
    network = TrainableMLP(MLPConfig(layer_sizes, rates, (side, side), labels))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            inputs = parameter.shape[-1]
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(inputs))
    return network.requires_grad_(False)


def draw_x(images: int, inputs: int) -> Tensor:
    return torch.randn(images, inputs, generator=torch.Generator().manual_seed(1))


def textbook_probs(network: TrainableMLP, x: Tensor, masks: Sequence[Tensor]) -> Array:
    """Softmax of W relu(...) + b in float64, one pass and one image after the other, (T, B, C)."""
    layers = [tensor.double().numpy() for tensor in network.state_dict().values()]
    *hidden, (W_out, b_out) = zip(layers[::2], layers[1::2], strict=True)
    answers = []
    for number, image in itertools.product(range(len(masks[0])), x.double().numpy()):
        h = image
        for (W, b), mask, rate in zip(hidden, masks, network.config.dropout_rates, strict=True):
            h = np.where(mask[number].numpy(), np.maximum(W @ h + b, 0) / (1 - rate), 0)
        exponentials = np.exp(W_out @ h + b_out)
        answers.append(exponentials / exponentials.sum())
    return np.reshape(answers, (len(masks[0]), len(x), -1))


# Pass by pass


@pytest.mark.parametrize("estimator", ["independent", "balanced"])
def test_passes_are_those_of_the_network_called_once_per_pass(estimator: Estimator) -> None:
    network = make_network((16, 13, 11, 7, 5), (RATE, 26 / 256, 128 / 256))
    x = draw_x(4, 16)
    masks = draw_tensors(network.config.dropout_sites, 3, 20, estimator=estimator)
    probs = sample_probs(network, x, masks)
    assert (probs.shape, probs.dtype) == ((20, 4, 5), torch.float32)
    for number in range(20):
        logits = network(x, [mask[number] for mask in masks])
        assert torch.allclose(probs[number], logits.softmax(dim=-1), rtol=0, atol=1e-6)


def test_a_linear_network_is_sampled_without_activations() -> None:
    relu = make_network((16, 13, 11, 5), (RATE, 26 / 256))
    network = TrainableMLP(replace(relu.config, activation="linear"))
    network.load_state_dict(relu.state_dict())
    x = draw_x(4, 16)
    masks = draw_tensors(network.config.dropout_sites, 3, 6)
    probs = sample_probs(network, x, masks)
    for number in range(6):
        logits = network(x, [mask[number] for mask in masks])
        assert torch.allclose(probs[number], logits.softmax(dim=-1), rtol=0, atol=1e-6)
    assert not torch.allclose(probs, sample_probs(relu, x, masks), atol=0.01)


def test_mean_and_variance_are_those_of_a_float64_textbook_computation() -> None:
    network = make_network((16, 13, 11, 7, 5), (RATE, 26 / 256, 128 / 256))
    x = draw_x(4, 16)
    masks = draw_tensors(network.config.dropout_sites, 5, 50)
    probs = sample_probs(network, x, masks).numpy()
    expected = textbook_probs(network, x, masks)
    assert mean(probs) == pytest.approx(expected.mean(axis=0), abs=1e-5)
    assert variance(probs) == pytest.approx(expected.var(axis=0, ddof=1), abs=1e-5)
    assert float(variance(probs).max()) > 0.001  # or nothing was tested


def test_each_image_sees_the_same_masks() -> None:
    network = make_network((16, 13, 5), (RATE,))
    x = draw_x(1, 16).expand(3, 16)
    probs = sample_probs(network, x, draw_tensors(network.config.dropout_sites, 0, 10))
    assert torch.allclose(probs, probs[:, :1].expand_as(probs), rtol=0, atol=1e-6)
    assert not torch.allclose(probs[0], probs[1], atol=1e-3)


def test_the_answer_of_an_image_is_the_same_alone_and_among_others() -> None:
    network = make_network((16, 13, 11, 5), (RATE, RATE))
    x = draw_x(5, 16)
    masks = draw_tensors(network.config.dropout_sites, 0, 10)
    together = sample_probs(network, x, masks)
    for number in range(5):
        alone = sample_probs(network, x[number : number + 1], masks)
        assert torch.allclose(together[:, number : number + 1], alone, rtol=0, atol=1e-6)


def test_rows_sum_to_1() -> None:
    network = make_network((16, 13, 11, 5), (RATE, RATE))
    probs = sample_probs(network, draw_x(3, 16), draw_tensors(network.config.dropout_sites, 0, 100))
    assert torch.allclose(probs.sum(dim=-1), torch.ones(100, 3), rtol=0, atol=1e-6)


def test_one_hidden_layer_whose_units_are_all_dropped_leaves_the_output_bias() -> None:
    network = make_network((16, 13, 5), (RATE,))
    probs = sample_probs(network, draw_x(2, 16), [torch.zeros(3, 13, dtype=torch.bool)])
    expected = network.state_dict()["layers.1.bias"].softmax(dim=0)
    assert torch.allclose(probs, expected.expand_as(probs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("passes", [2, 50, 133])
def test_rate_0_gives_no_variance(passes: int) -> None:
    network = make_network((784, 64, 32, 10), (0.0, 0.0))
    x = draw_x(3, 784)
    probs = sample_probs(network, x, draw_tensors(network.config.dropout_sites, 0, passes))
    # A matrix library may give the last rows of a product other low bits than the first. (The
    # engine takes care that it does not; its variance is exactly 0.)
    assert variance(probs.numpy()) == pytest.approx(0, abs=1e-13)
    assert torch.allclose(probs[0], network(x).softmax(dim=-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "units",
    [(13,), (13, 11, 7, 5), (13, 11, 8), (11, 13, 7), (1, 11, 7), ()],
)
def test_masks_of_another_network_are_refused(units: tuple[int, ...]) -> None:
    network = make_network((16, 13, 11, 7, 5), (RATE, RATE, RATE))
    masks = [torch.ones(4, size, dtype=torch.bool) for size in units]
    with pytest.raises(ShapeError, match="do not fit hidden layers"):
        sample_probs(network, draw_x(2, 16), masks)


def test_the_network_and_the_global_generators_are_left_alone() -> None:
    network = make_network((16, 13, 5), (RATE,))
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    before = torch.get_rng_state(), repr(np.random.get_state(legacy=False))
    sample_probs(network, draw_x(2, 16), draw_tensors(network.config.dropout_sites, 0, 50))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert repr(np.random.get_state(legacy=False)) == before[1]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name])


# The closed form of one linear layer after dropout

PASSES = 20_000


def closed_form(network: TrainableMLP, x: Tensor) -> tuple[Array, Array]:
    """h, (units,), and W and b of the output layer side by side, (C, units + 1)."""
    weights = [tensor.double().numpy() for tensor in network.state_dict().values()]
    W_in, b_in, W, b = weights
    h = np.maximum(W_in @ x[0].double().numpy() + b_in, 0)
    return h, np.column_stack([W, b])


def assert_moments(samples: Array, expected: Array, spread: Array) -> None:
    """Mean and variance of `PASSES` samples, (T, C), are within 5 standard errors."""
    assert (spread > 0.01).all()  # or nothing was tested
    error = np.sqrt(spread / PASSES)
    assert (np.abs(samples.mean(axis=0) - expected) < 5 * error).all()
    # Var(s^2) = (E d^4 - spread^2) / T, with the fourth moment from the samples.
    fourth = ((samples - expected) ** 4).mean(axis=0)
    error = np.sqrt((fourth - spread**2) / PASSES)
    assert (np.abs(samples.var(axis=0, ddof=1) - spread) < 5 * error).all()


def test_logits_have_the_closed_forms_mean_and_variance() -> None:
    """E = W h + b and Var = p / (1 - p) W^2 h^2."""
    network = make_network((16, 40, 5), (RATE,))
    x = draw_x(1, 16)
    h, W_and_b = closed_form(network, x)
    W, b = W_and_b[:, :-1], W_and_b[:, -1]
    logits = network(x, draw_tensors(network.config.dropout_sites, 1, PASSES)).double().numpy()
    assert_moments(logits, W @ h + b, RATE / (1 - RATE) * W**2 @ h**2)


def test_sampled_probabilities_have_the_closed_forms_mean_and_variance() -> None:
    """A logarithm of two probabilities' ratio is the difference of their logits: linear too."""
    network = make_network((16, 40, 5), (RATE,))
    x = draw_x(1, 16)
    h, W_and_b = closed_form(network, x)
    W, b = (W_and_b[1:] - W_and_b[0])[:, :-1], (W_and_b[1:] - W_and_b[0])[:, -1]
    probs = (
        sample_probs(network, x, draw_tensors(network.config.dropout_sites, 1, PASSES))
        .double()
        .numpy()
    )
    ratios = np.log(probs[:, 0, 1:] / probs[:, 0, :1])
    assert_moments(ratios, W @ h + b, RATE / (1 - RATE) * W**2 @ h**2)


# An independent implementation


def with_torchs_dropout(network: TrainableMLP) -> nn.Sequential:
    """The same network from torch's own parts, dropout active."""
    *hidden, output = (layer for layer in network.layers if isinstance(layer, nn.Linear))
    parts: list[nn.Module] = []
    for layer, rate in zip(hidden, network.config.dropout_rates, strict=True):
        parts += [layer, nn.ReLU(), nn.Dropout(rate)]
    return nn.Sequential(*parts, output)


def test_means_agree_with_4000_passes_of_torchs_own_dropout(
    default_checkpoint: Checkpoint,
) -> None:
    network, passes = TrainableMLP.from_network(default_checkpoint.network), 4000
    # Clear digits, and two drawn over each other: passes disagree about many of these.
    pairs = [(3, 5), (4, 9), (0, 6), (1, 2), (5, 6), (6, 7), (2, 4)]
    drawings = [FOUR_OR_NINE, STAR, DIGITS[1], DIGITS[8]]
    drawings += [(*DIGITS[some], *DIGITS[other]) for some, other in pairs]
    pictures = [draw_strokes(drawing) for drawing in drawings]
    images = np.stack([preprocess_image(np.array(picture)) for picture in pictures])
    x = torch.from_numpy(normalise(images, network.config))
    ours = sample_probs(network, x, draw_tensors(network.config.dropout_sites, 0, passes)).double()
    reference = with_torchs_dropout(network).train()
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        answers = [reference(image.expand(passes, -1)).softmax(dim=-1) for image in x]
    theirs = torch.stack(answers, dim=1).double()  # (T, B, C)
    assert int((ours.var(dim=0).amax(dim=-1) > 0.01).sum()) >= 3  # or nothing was tested
    combined = torch.sqrt((ours.var(dim=0) + theirs.var(dim=0)) / passes)
    assert bool(((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 5 * combined + 1e-3).all())
    # The same for the variances, whose standard error comes from the fourth moments.
    fourths = [((p - p.mean(dim=0)) ** 4).mean(dim=0) - p.var(dim=0) ** 2 for p in (ours, theirs)]
    combined = torch.sqrt((fourths[0] + fourths[1]) / passes)
    assert bool(((ours.var(dim=0) - theirs.var(dim=0)).abs() < 5 * combined + 1e-3).all())
