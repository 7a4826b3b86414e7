"""MC dropout as in the paper, in a few lines of torch: the reference for tests of the engines."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.arrays import Floats, KeepMasks
from model.errors import ShapeError
from model.literals import Estimator
from model.network import MLP
from model.sampling.masks import DropoutSite
from tests.model.engines.networks import draw_by_site
from training.network import Masks, TrainableMLP


def draw_tensors(
    sites: Sequence[DropoutSite],
    seed: int,
    passes: int,
    *,
    estimator: Estimator = "independent",
) -> list[Tensor]:
    """Masks as tensors, one per dropout site."""
    masks = draw_by_site(sites, seed, passes, estimator=estimator)
    return [torch.from_numpy(mask) for mask in masks]


def forward(network: MLP, x: Floats | Tensor) -> Tensor:
    """The logits without dropout, (B, C)."""
    with torch.inference_mode():
        logits: Tensor = TrainableMLP.from_network(network)(torch.as_tensor(x))
        return logits


def sample_probs(
    network: TrainableMLP, x: Floats | Tensor, masks: Masks | Sequence[KeepMasks]
) -> Tensor:
    """Computes the class probabilities of every pass.

    Args:
        network: the network; kept units are scaled by its dropout rates.
        x: normalised pixels, float32, (B, 784).
        masks: one mask per hidden layer, (T, units), shared by all images; see
            `masks.draw_masks`.

    Returns:
        Probabilities, float32, (T, B, C); rows sum to 1.

    Raises:
        ShapeError: the masks were drawn for other layer sizes.

    References:
        Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation", section 4.
    """
    config = network.config
    shapes = [tuple(mask.shape[1:]) for mask in masks]
    if shapes != [(units,) for units in config.hidden_sizes]:
        raise ShapeError(
            f"masks for layers {shapes} do not fit hidden layers {config.hidden_sizes}"
        )
    first, *later = network.layers
    with torch.inference_mode():
        # Before its mask, layer 1 is the same in every pass.
        z = first(torch.as_tensor(x)).unsqueeze(0)  # (1, B, 512)
        for layer, mask, rate in zip(later, masks, config.dropout_rates, strict=True):
            h = z.relu() if config.activation == "relu" else z
            z = layer(h * torch.as_tensor(mask).unsqueeze(1) / (1 - rate))  # (T, B, units)
        probs: Tensor = z.softmax(dim=-1)
        return probs
