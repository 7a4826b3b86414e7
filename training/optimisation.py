"""Optimiser, schedule and regularisers: L1, L2, max-norm, input dropout, early stopping.

Dropout of hidden units is part of the network. Each regulariser is a function of its arguments;
`train.py` calls those whose settings are on.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from model.sampling.masks import DropoutSite, Passes, draw_masks
from training.config import TrainConfig
from training.network import Trainable


def initialise(network: Trainable, config: TrainConfig, generator: torch.Generator) -> None:
    """Draws the weights and zeroes the biases.

    "he" is normal with variance 2 / inputs (He et al. 2015), made for ReLU; "glorot" is uniform
    within sqrt(6 / (inputs + outputs)) (Glorot and Bengio 2010), what Keras does by default.
    """
    for name, values in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(values)
        elif config.initialisation == "glorot":
            nn.init.xavier_uniform_(values, generator=generator)
        else:
            nn.init.kaiming_normal_(values, nonlinearity="relu", generator=generator)


def build_optimiser(network: Trainable, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW or SGD, as the settings say."""
    shared: dict[str, Any] = {"lr": config.learning_rate, "fused": True}
    if config.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), momentum=config.momentum, **shared)
    return torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay, **shared)


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
        # AdamW's first beta moves against the learning rate; SGD keeps its momentum.
        cycle_momentum=config.optimiser == "adamw",
    )


def weight_penalty(weights: Iterable[Tensor], *, l1: float, l2: float) -> Tensor:
    """A term of the loss for matrices of weights, without biases: l1 sum |w| + l2 / 2 sum w^2.

    Its gradient is l1 sign(w) + l2 w (0 at w = 0), so that l2 means what SGD's weight decay does;
    Goodfellow et al. 2016, "Deep Learning", section 7.1.
    """
    terms = [l1 * w.abs().sum() + l2 / 2 * w.square().sum() for w in weights]
    return torch.stack(terms).sum()


def cap_norms(weight: Tensor, max_norm: float) -> None:
    """Max-norm: scales down, in place, each row of weights that exceeds this Euclidean norm.

    A row of (units, inputs) is what comes into one unit; Srivastava et al. 2014, section 5.1.
    """
    with torch.no_grad():
        rows = weight.view(len(weight), -1)  # also of a convolution
        norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)  # (units, 1)
        rows *= (max_norm / norms).clamp_max(1)  # a row of zeros: its inf is clamped to 1


def keep_inputs(rate: float, seed: int, images: int, inputs: int, *, first_image: int) -> Tensor:
    """Keep-masks of the inputs, bool, (images, inputs); True keeps the input.

    As in `model.sampling.masks`, the seed and an image's number in the run, from `first_image` on,
    determine its mask. The rate, the probability of dropping, is a multiple of 1/256; the seed must
    differ from that of the hidden units' masks.
    """
    sites = [DropoutSite(inputs, rate)]
    return torch.from_numpy(draw_masks(sites, Passes(first_image + images, seed), first_image))


def drop_inputs(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """Inverted dropout: zero where `keep` is false, and scaled by 1 / (1 - rate) elsewhere."""
    return x * keep / (1 - rate)


def outlier_loss(logits: Tensor, plain: Tensor | None, config: TrainConfig) -> Tensor:
    """What outliers add to the loss.

    Without disagreement it is w CE(u, p), with u uniform and p the probabilities of a pass:
    outlier exposure (Hendrycks et al. 2019), which makes every pass uncertain.

    With a disagreement of a > 0 it is

        w (ln C - H(mean of K passes)) + w a / 2 (mean of their H) + d CE(u, p without dropout):

    the mean of the passes is to be uniform and each pass is to be certain, so that they disagree.
    At a = 2 the first two terms are w times ln C minus the mutual information. Related: maximum
    overall diversity, Jain et al. 2020, "Maximizing Overall Diversity for Improved Uncertainty
    Estimates in Deep Ensembles", arXiv 1906.07380.

    Args:
        logits: of the passes, (K M, C), all outliers' first pass first.
        plain: without dropout, (M, C); None without the last term.
        config: w is `outlier_weight`, a `disagreement`, K `outlier_passes`, and d
            `plain_outlier_weight`.
    """
    logs = logits.log_softmax(dim=1)
    if config.disagreement > 0:
        passes = logs.view(config.outlier_passes, -1, logs.shape[1])  # (K, M, C)
        mean_logs = passes.logsumexp(dim=0) - math.log(len(passes))
        entropy = -(mean_logs.exp() * mean_logs).sum(dim=1).mean()
        expected_entropy = -(logs.exp() * logs).sum(dim=1).mean()
        loss = math.log(logs.shape[1]) - entropy + config.disagreement / 2 * expected_entropy
    else:
        loss = -logs.mean()
    loss = config.outlier_weight * loss
    if plain is None:
        return loss
    return loss - config.plain_outlier_weight * plain.log_softmax(dim=1).mean()


def moving_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Any], None]:
    """An exponential moving average of the weights, for `AveragedModel`.

    It begins with random weights, which would dominate a short run: until the average is long
    enough, the decay is (1 + n) / (10 + n) after n steps.
    """

    def update(averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Any) -> None:
        share = max(1 - decay, 9 / (10 + int(steps)))
        torch._foreach_lerp_(list(averages), list(weights), share)

    return update


def best_epoch(losses: Sequence[float]) -> int:
    """The epoch, counted from 1, with the lowest validation loss; the first of equal ones."""
    return min(range(len(losses)), key=losses.__getitem__) + 1


def patience_has_ended(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` epochs have all failed to beat the best one before them.

    A patience of 0 never ends; Goodfellow et al. 2016, "Deep Learning", algorithm 7.1.
    """
    return 0 < patience <= len(losses) - (best_epoch(losses) if losses else 0)
