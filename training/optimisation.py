"""How a run begins and steps: initial weights, optimiser, schedule of the learning rate."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from model.network import MLP
from training.config import TrainConfig


def initialise(network: MLP, config: TrainConfig, generator: torch.Generator) -> None:
    """Draws the weights and zeroes the biases.

    "he" is normal with variance 2 / inputs (He et al. 2015), made for ReLU; "glorot" is uniform
    within sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), what Keras does by default.
    """
    for layer in network.layers:
        assert isinstance(layer, nn.Linear)
        if config.initialisation == "glorot":
            nn.init.xavier_uniform_(layer.weight, generator=generator)
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)


def build_optimiser(network: MLP, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    if config.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(), lr=config.learning_rate, momentum=config.momentum, fused=True
        )
    return torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, *, steps: int
) -> LRScheduler:
    """The learning rate at each of the run's steps."""
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda step: 1.0)
    return OneCycleLR(
        optimizer,
        max_lr=config.learning_rate,
        total_steps=steps,
        pct_start=0.2,
        # AdamW's first beta moves against the learning rate; SGD keeps the momentum asked for.
        cycle_momentum=config.optimiser == "adamw",
    )
