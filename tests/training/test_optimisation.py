"""Initial weights, optimisers and schedules against their formulas."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from model.network import MLP, MLPConfig
from training.config import TrainConfig
from training.optimisation import build_optimiser, build_schedule, initialise

PLAIN = TrainConfig(optimiser="sgd", schedule="constant", learning_rate=0.25)


def initialised(kind: str, seed: int = 0) -> MLP:
    network = MLP(MLPConfig())
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
