"""Initial weights, optimisers, schedules and regularisers, by hand and inside a training run."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import training.train
from model.checkpoint import load_checkpoint
from model.network import MLP, MLPConfig
from tests.training.patterns import (
    TINY,
    read_history,
    run,
)
from training.config import TrainConfig
from training.data import Images
from training.network import TrainableMLP
from training.optimisation import (
    best_epoch,
    build_optimiser,
    build_schedule,
    cap_norms,
    drop_inputs,
    initialise,
    keep_inputs,
    moving_average,
    outlier_loss,
    patience_has_ended,
    weight_penalty,
)
from training.runs import RunFiles
from training.train import evaluate_network

pytestmark = pytest.mark.usefixtures("one_thread")


PLAIN = TrainConfig(optimiser="sgd", schedule="constant", learning_rate=0.25)


def initialised(kind: str, seed: int = 0) -> TrainableMLP:
    network = TrainableMLP(MLPConfig())
    generator = torch.Generator().manual_seed(seed)
    initialise(network, replace(PLAIN, initialisation=kind), generator)
    return network


@pytest.mark.parametrize("kind", ["he", "glorot"])
def test_weights_have_the_variance_of_their_formula_and_biases_are_0(kind: str) -> None:
    for layer in initialised(kind).layers:
        weight = layer.get_parameter("weight").detach().double()
        outputs, inputs = weight.shape
        variance = 2 / inputs if kind == "he" else 2 / (inputs + outputs)
        # The variance of n normal values is off by sqrt(2 / n), of uniform ones by less.
        slack = 5 * math.sqrt(2 / weight.numel())
        assert float(weight.square().mean()) == pytest.approx(variance, rel=slack)
        assert not layer.get_parameter("bias").any()


def test_glorot_weights_fill_their_interval_evenly() -> None:
    for layer in initialised("glorot").layers:
        weight = layer.get_parameter("weight").detach().flatten()
        outputs, inputs = layer.get_parameter("weight").shape
        bound = math.sqrt(6 / (inputs + outputs))
        assert 0.98 * bound < float(weight.abs().max()) <= bound
        # Kurtosis 1.8 is a uniform distribution; a normal one has 3.
        kurtosis = float(weight.double().pow(4).mean() / weight.double().square().mean() ** 2)
        assert kurtosis == pytest.approx(1.8, abs=0.1)


def test_another_generator_draws_other_weights() -> None:
    for kind in ("he", "glorot"):
        first, again, other = (
            initialised(kind, seed).layers[0].get_parameter("weight") for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def steps_of(config: TrainConfig, gradients: list[float]) -> list[float]:
    """Where one bias goes when its gradients are these, and others none."""
    network = initialised("he")
    optimiser = build_optimiser(network, config)
    bias = network.layers[0].get_parameter("bias")
    places = []
    for gradient in gradients:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        assert bias.grad is not None
        bias.grad[0] = gradient
        optimiser.step()
        places.append(float(bias.detach()[0]))
    return places


def test_plain_sgd_steps_by_rate_times_gradient() -> None:
    assert steps_of(PLAIN, [1.0, -2.0, 0.0]) == [-0.25, 0.25, 0.25]


def test_momentum_carries_former_gradients_on() -> None:
    # v = 1, then 0.5 * 1 - 2 = -1.5, then -0.75; each step is -0.25 v.
    assert steps_of(replace(PLAIN, momentum=0.5), [1.0, -2.0, 0.0]) == [-0.25, 0.125, 0.3125]


def test_the_first_step_of_adamw_is_the_learning_rate() -> None:
    config = TrainConfig(learning_rate=0.25)
    for gradient in (3.0, 0.01):
        assert steps_of(config, [gradient])[0] == pytest.approx(-0.25, rel=1e-4)


def rates_of(config: TrainConfig, steps: int) -> tuple[list[float], list[dict[str, Any]]]:
    optimiser = build_optimiser(initialised("he"), config)
    schedule = build_schedule(optimiser, config, steps=steps)
    rates, groups = [], []
    for _ in range(steps):
        (group,) = optimiser.param_groups
        rates.append(group["lr"])
        groups.append(dict(group))
        optimiser.step()
        schedule.step()
    return rates, groups


def test_a_constant_schedule_stays() -> None:
    assert rates_of(PLAIN, 10)[0] == [0.25] * 10


def test_one_cycle_rises_to_the_rate_and_leaves_the_momentum_of_sgd_alone() -> None:
    rates, groups = rates_of(replace(PLAIN, schedule="one-cycle", momentum=0.5), 100)
    assert max(rates) == pytest.approx(0.25)
    assert rates.index(max(rates)) == 19
    assert rates[-1] < 0.001
    assert {group["momentum"] for group in groups} == {0.5}


RATE = 77 / 256  # about 0.3: at one half, p and 1 - p exchanged would not show


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# L1 and L2


def gradients(weights: list[Tensor], *, l1: float, l2: float) -> list[Tensor]:
    leaves = [weight.clone().requires_grad_() for weight in weights]
    weight_penalty(leaves, l1=l1, l2=l2).backward()  # type: ignore[no-untyped-call]
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def test_the_penalty_of_a_matrix_by_hand() -> None:
    weights = [torch.tensor([[3.0, -4.0]]), torch.tensor([[1.0], [0.0]])]
    assert float(weight_penalty(weights, l1=0.5, l2=0.0)) == 0.5 * (3 + 4 + 1)
    assert float(weight_penalty(weights, l1=0.0, l2=0.25)) == 0.25 / 2 * (9 + 16 + 1)
    assert float(weight_penalty(weights, l1=0.5, l2=0.25)) == 4 + 3.25


def test_the_gradient_of_l1_is_its_strength_times_the_sign() -> None:
    weights = [draw(5, 4), torch.tensor([[0.0, 2.0, -1e-30]])]
    for weight, gradient in zip(weights, gradients(weights, l1=0.3, l2=0.0), strict=True):
        assert torch.equal(gradient, 0.3 * weight.sign())  # nothing at 0


def test_the_gradient_of_l2_is_its_strength_times_the_weight() -> None:
    weights = [draw(5, 4), draw(3, 5, seed=1)]
    for weight, gradient in zip(weights, gradients(weights, l1=0.0, l2=0.3), strict=True):
        torch.testing.assert_close(gradient, 0.3 * weight)


def test_the_gradient_is_that_of_finite_differences() -> None:
    weights = [draw(3, 2).double(), draw(2, 3, seed=1).double()]
    (first, _) = gradients(weights, l1=0.2, l2=0.7)
    step = 1e-6
    for row in range(3):
        for column in range(2):
            values = []
            for sign in (1, -1):
                moved = weights[0].clone()
                moved[row, column] += sign * step
                values.append(float(weight_penalty([moved, weights[1]], l1=0.2, l2=0.7)))
            difference = (values[0] - values[1]) / (2 * step)
            assert float(first[row, column]) == pytest.approx(difference, rel=1e-6)


def test_l2_under_plain_sgd_is_torchs_weight_decay(output: Path) -> None:
    """One epoch, weights alone decayed; torch's own SGD is the oracle."""
    plain = replace(TINY, epochs=1, optimiser="sgd", schedule="constant", learning_rate=0.05)
    found = run(output, replace(plain, l2=0.01)).network

    class Decaying(torch.optim.SGD):
        def __init__(self, parameters: Iterator[Tensor], **options: Any) -> None:
            every = list(parameters)
            matrices = [parameter for parameter in every if parameter.dim() == 2]
            biases = [parameter for parameter in every if parameter.dim() == 1]
            groups: list[dict[str, Any]] = [
                {"params": matrices, "weight_decay": 0.01},
                {"params": biases},
            ]
            super().__init__(groups, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.optim, "SGD", Decaying)
        expected = run(output.with_name("decayed"), plain).network
    assert_close_networks(found, expected)
    with pytest.raises(AssertionError):
        assert_close_networks(found, run(output.with_name("plain"), plain).network)


def assert_close_networks(found: MLP, expected: MLP) -> None:
    for one, other in zip(found.layers, expected.layers, strict=True):
        np.testing.assert_allclose(one.weight, other.weight, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.bias, other.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_l1_shrinks_the_sum_of_absolute_weights(output: Path) -> None:
    sums = []
    for l1 in (0.0, 1e-3):
        network = run(output.with_name(str(l1)), replace(TINY, l1=l1)).network
        sums.append(sum(float(np.abs(layer.weight).sum()) for layer in network.layers))
    assert sums[1] < 0.8 * sums[0]


def test_the_history_holds_the_loss_without_the_penalty(output: Path) -> None:
    """Else the losses of differently regularised networks could not be compared."""
    config = replace(TINY, epochs=1, learning_rate=0.0)  # the weights stay, whatever the penalty
    for name, each in {"plain": config, "l1": replace(config, l1=1.0, l2=1.0)}.items():
        run(output.with_name(name), each)
    (plain,), (penalised,) = (read_history(output.with_name(name)) for name in ("plain", "l1"))
    assert plain["train_loss"] == penalised["train_loss"]


# Max-norm


def test_rows_above_the_norm_are_projected_onto_it_and_others_stay() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [-6.0, 8.0]])
    cap_norms(weight, 2.0)
    torch.testing.assert_close(
        weight, torch.tensor([[1.2, 1.6], [0.3, 0.4], [0.0, 0.0], [-1.2, 1.6]])
    )


def test_the_projection_is_the_nearest_point_within_the_ball() -> None:
    """Of many points within it, none is nearer."""
    row = 5 * draw(1, 4)
    projected = row.clone()
    cap_norms(projected, 1.5)
    assert float(projected.norm()) == pytest.approx(1.5, rel=1e-6)
    points = draw(5000, 4, seed=1)
    points *= 1.5 / points.norm(dim=1, keepdim=True).clamp_min(1.5)
    assert float((points - row).norm(dim=1).min()) >= float((projected - row).norm())


def test_a_trained_network_keeps_the_norm_in_its_hidden_layers_only(output: Path) -> None:
    config = replace(TINY, max_norm=0.5, averaging=0.0)  # He's norms begin at 1.4
    *hidden, last = run(output, config).network.layers
    for layer in hidden:
        norms = np.linalg.norm(layer.weight, axis=1)
        assert float(norms.max()) <= 0.5 * (1 + 1e-6)
        assert float(norms.mean()) > 0.45  # the bound is felt
    assert float(np.linalg.norm(last.weight, axis=1).min()) > 0.5


# Input dropout


def test_kept_inputs_are_scaled_by_1_over_the_keep_rate_and_dropped_ones_are_0() -> None:
    x = draw(50, 784)
    keep = keep_inputs(RATE, 7, 50, 784, first_image=0)
    dropped = drop_inputs(x, keep, RATE)
    assert torch.equal(dropped[~keep], torch.zeros(int((~keep).sum())))
    torch.testing.assert_close(dropped[keep], x[keep] * 256 / (256 - 77))


def test_inputs_are_dropped_at_the_rate_and_their_mean_stays() -> None:
    images = 4000
    keep = keep_inputs(RATE, 7, images, 784, first_image=0)
    count = images * 784
    share = float((~keep).double().mean())
    assert share == pytest.approx(RATE, abs=5 * math.sqrt(RATE * (1 - RATE) / count))
    # Each input by itself, not whole images or columns together.
    per_input = (~keep).double().mean(dim=0)
    spread = math.sqrt(RATE * (1 - RATE) / images)
    assert float(per_input.std()) == pytest.approx(spread, rel=0.2)
    ones = drop_inputs(torch.ones(images, 784), keep, RATE)
    assert float(ones.double().mean()) == pytest.approx(1, abs=0.01)


def test_an_images_number_determines_which_inputs_it_keeps() -> None:
    together = keep_inputs(RATE, 7, 10, 784, first_image=40)
    for number in range(10):
        alone = keep_inputs(RATE, 7, 1, 784, first_image=40 + number)
        assert torch.equal(alone[0], together[number])
    assert len({tuple(row.tolist()) for row in together}) == 10
    assert not torch.equal(together, keep_inputs(RATE, 8, 10, 784, first_image=40))


def test_every_image_of_a_run_has_an_input_mask_of_its_own(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def record(rate: float, seed: int, images: int, inputs: int, *, first_image: int) -> Tensor:
        assert rate == RATE
        seen.extend(range(first_image, first_image + images))
        return keep_inputs(rate, seed, images, inputs, first_image=first_image)

    monkeypatch.setattr(training.train, "keep_inputs", record)
    run(output, replace(TINY, epochs=2, input_dropout=0.3))
    assert seen == list(range(2 * 20 * 25))


# Outliers


def entropy_of(probs: NDArray[np.float64]) -> NDArray[np.float64]:
    entropies: NDArray[np.float64] = -(probs * np.log(probs)).sum(axis=-1)
    return entropies


@pytest.mark.parametrize("plain_weight", [0.0, 0.15])
def test_disagreement_is_the_formula_of_its_docstring(plain_weight: float) -> None:
    K, M, C, w, a = 3, 5, 10, 0.7, 1.5
    logits, plain = draw(K * M, C, seed=1), draw(M, C, seed=2)
    config = TrainConfig(
        outliers=1, outlier_weight=w, disagreement=a, outlier_passes=K,
        plain_outlier_weight=plain_weight,
    )  # fmt: skip
    p = np.exp(logits.double().numpy()).reshape(K, M, C)
    p /= p.sum(axis=2, keepdims=True)
    expected = w * (math.log(C) - entropy_of(p.mean(axis=0)).mean())
    expected += w * a / 2 * entropy_of(p).mean()
    q = plain.double().softmax(dim=1).numpy()
    expected -= plain_weight * np.log(q).mean()
    found = outlier_loss(logits, plain if plain_weight else None, config)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_at_a_disagreement_of_2_passes_that_are_certain_of_other_classes_cost_nothing() -> None:
    """Ten passes, each certain of another class: the mutual information is ln 10."""
    config = TrainConfig(outliers=1, outlier_weight=1.0, disagreement=2.0, outlier_passes=10)
    assert float(outlier_loss(1000 * torch.eye(10), None, config)) == pytest.approx(0, abs=1e-5)
    alike = outlier_loss(torch.zeros(10, 10), None, config)
    assert float(alike) == pytest.approx(math.log(10), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_the_average_follows_its_recurrence_and_forgets_its_beginning(steps: int) -> None:
    averages, expected = [torch.tensor([0.0, 100.0])], np.array([0.0, 100.0])
    update = moving_average(0.9)
    for step in range(1, steps + 1):
        update(averages, [torch.full((2,), float(step))], torch.tensor(step))
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    np.testing.assert_allclose(averages[0].numpy(), expected, rtol=1e-5)


# Early stopping


def test_the_best_epoch_is_the_first_of_the_lowest_loss() -> None:
    assert best_epoch([0.5]) == 1
    assert best_epoch([0.5, 0.3, 0.4, 0.3]) == 2


@pytest.mark.parametrize(
    ("losses", "patience", "ends_at"),
    [
        # 0.3 in epoch 3 is the best; epochs 4 and 5 use up a patience of 2.
        ([0.5, 0.4, 0.3, 0.35, 0.31, 0.2], 2, 5),
        ([0.5, 0.4, 0.3, 0.35, 0.31, 0.2, 0.25, 0.26, 0.27], 3, 9),
        ([0.5, 0.5, 0.4], 1, 2),  # as good is no better
        ([0.5, 0.4, 0.3, 0.2], 1, None),
        ([0.1, 0.4, 0.3, 0.2], 0, None),  # no patience asked for
    ],
)
def test_patience_ends_at_the_epoch_worked_out_by_hand(
    losses: list[float], patience: int, ends_at: int | None
) -> None:
    ended = [
        epoch for epoch in range(len(losses) + 1) if patience_has_ended(losses[:epoch], patience)
    ]
    assert (ended[0] if ended else None) == ends_at


class Losses:
    """Stands for the scores of the validation images: a given loss for each epoch."""

    def __init__(self, *losses: float) -> None:
        self.losses = list(losses)
        self.weights: list[Tensor] = []

    def __call__(self, network: TrainableMLP, images: Images) -> Any:
        self.weights.append(network.layers[0].get_parameter("weight").detach().clone())
        scores = evaluate_network(network, images)
        return replace(scores, nll=self.losses.pop(0)) if self.losses else scores


def test_a_run_stops_when_patience_ends_and_keeps_the_best_epoch(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses(0.5, 0.3, 0.4, 0.35, 0.1)
    monkeypatch.setattr(training.train, "evaluate_network", losses)
    run(output, replace(TINY, epochs=5, patience=2))
    assert [row["epoch"] for row in read_history(output)] == [1, 2, 3, 4]
    saved = load_checkpoint(output).network.layers[0].weight
    assert np.array_equal(saved, losses.weights[1])
    assert not np.array_equal(saved, losses.weights[3])


@pytest.mark.slow
@pytest.mark.parametrize("interrupted_at", [2, 3, 4, 5])
def test_a_resumed_run_stops_at_the_same_epoch_with_the_same_bytes(
    output: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    """Interrupted at the n-th score; the fifth is that of the finished network."""
    config = replace(TINY, epochs=5, patience=2)
    whole = output.with_name("whole")
    monkeypatch.setattr(training.train, "evaluate_network", Losses(0.5, 0.3, 0.4, 0.35))
    run(whole, config)
    losses = Losses(0.5, 0.3, 0.4, 0.35)

    def interrupt(network: TrainableMLP, images: Images) -> Any:
        if len(losses.weights) == interrupted_at - 1:
            raise KeyboardInterrupt
        return losses(network, images)

    monkeypatch.setattr(training.train, "evaluate_network", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(output, config)
    assert RunFiles(output).state.exists()
    monkeypatch.setattr(training.train, "evaluate_network", losses)
    run(output, config, resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert [row["epoch"] for row in read_history(output)] == [1, 2, 3, 4]
