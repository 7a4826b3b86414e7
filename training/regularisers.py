"""The regularisers besides hidden dropout: L1, L2, max-norm, input dropout, early stopping.

Each is a function of what it is given; `train.py` calls it where a setting asks for it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from model.network import RATE_STEPS
from model.sampling.masks import random_bytes

# A row of random bytes is a multiple of this; see `model.sampling.masks.random_bytes`.
_ROW_MULTIPLE = 32


def weight_penalty(weights: Iterable[Tensor], *, l1: float, l2: float) -> Tensor:
    """What is added to the loss: l1 sum |w| + l2 / 2 sum w^2.

    Its gradient is l1 sign(w) + l2 w (0 at w = 0), so that l2 means what SGD's weight decay does.

    Args:
        weights: matrices of weights; biases are not penalised.
        l1: strength of the pull towards 0 that is equal for all weights.
        l2: strength of the pull that grows with the weight.

    References:
        Goodfellow et al. 2016, "Deep Learning", section 7.1.
    """
    terms = [l1 * w.abs().sum() + l2 / 2 * w.square().sum() for w in weights]
    return torch.stack(terms).sum()


def cap_norms(weight: Tensor, max_norm: float) -> None:
    """Max-norm: scales down, in place, the incoming weights of each unit that exceed the norm.

    Args:
        weight: (units, inputs); a row is what comes into one unit.
        max_norm: the largest Euclidean norm a row keeps.

    References:
        Srivastava et al. 2014, section 5.1; it projects after every step.
    """
    with torch.no_grad():
        norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)  # (units, 1)
        weight *= (max_norm / norms).clamp_max(1)  # a row of zeros: its inf is clamped to 1


def keep_inputs(rate: float, seed: int, images: int, inputs: int, *, first_image: int) -> Tensor:
    """Keep-masks of the inputs, counted like `model.sampling.masks`.

    A seed and a number determine a mask.

    Args:
        rate: probability of dropping an input, a multiple of 1/256.
        seed: 0 to `model.sampling.masks.MAX_SEED`; not the one of the hidden units' masks.
        images: B, how many images.
        inputs: values per image.
        first_image: number of the first image in the run, from 0.

    Returns:
        Bool, (B, inputs); True keeps the input.
    """
    row = -(-inputs // _ROW_MULTIPLE) * _ROW_MULTIPLE
    draws = random_bytes(seed, first_image, images, row)[:, :inputs]
    return torch.from_numpy(draws >= np.uint8(round(rate * RATE_STEPS)))


def drop_inputs(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """Inverted dropout: zero where `keep` is false, and scaled by 1 / (1 - rate) elsewhere."""
    return x * keep / (1 - rate)


def best_epoch(losses: Sequence[float]) -> int:
    """The epoch, counted from 1, with the lowest validation loss; of equals the first."""
    return min(range(len(losses)), key=losses.__getitem__) + 1


def patience_has_ended(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` epochs have all failed to beat the best one before them.

    Args:
        losses: validation loss of each epoch so far.
        patience: epochs to wait for an improvement; 0 waits for ever.

    References:
        Goodfellow et al. 2016, "Deep Learning", algorithm 7.1.
    """
    return 0 < patience <= len(losses) - (best_epoch(losses) if losses else 0)
