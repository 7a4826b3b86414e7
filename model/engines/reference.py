"""MC dropout as in the paper, in a few lines of torch: the reference for tests of the engines."""

from torch import Tensor

from model.errors import ShapeError
from model.network import MLP, Masks


def sample_probs(network: MLP, x: Tensor, masks: Masks) -> Tensor:
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
    # Before its mask, layer 1 is the same in every pass.
    h = config.activate(first(x)).unsqueeze(0)  # (1, B, 512)
    for index, layer in enumerate(later):
        kept = h * masks[index].unsqueeze(1) / (1 - config.dropout_rates[index])  # (T, B, units)
        h = layer(kept)
        if index < len(later) - 1:
            h = config.activate(h)
    return h.softmax(dim=-1)
