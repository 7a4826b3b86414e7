"""A checkpoint as it is served: its answers can be sent, and its description too."""

from pathlib import Path

from app.inference.catalogue import find_models
from app.inference.encoding import encode_json
from app.settings import Settings
from model.checkpoint import AnyCheckpoint, load_any_checkpoint
from model.errors import CheckpointError
from model.literals import SIDE
from model.network import MLP


def load_served_checkpoint(settings: Settings) -> AnyCheckpoint:
    """The checkpoint of the default model of the settings.

    Raises:
        CheckpointError: there is no such model; see also `load_servable`.
    """
    return load_servable(find_models(settings).file_of().path)


def load_servable(path: Path) -> AnyCheckpoint:
    """Reads a checkpoint that can be served.

    Raises:
        CheckpointError: it cannot be read, its network takes other images than are served, or its
            description cannot be sent.
    """
    checkpoint = load_any_checkpoint(path)
    network = checkpoint.network
    if isinstance(network, MLP) and network.config.input_shape != (SIDE, SIDE):
        shape = network.config.input_shape
        raise CheckpointError(
            f"the checkpoint {path} is for images of shape {shape}; only {SIDE}x{SIDE} is served"
        )
    try:
        encode_json(checkpoint.card())
    except TypeError as error:  # a name that is no Unicode, or a number of more than 64 bits
        raise CheckpointError(
            f"the checkpoint {path} has a description that cannot be sent as JSON: {error}"
        ) from error
    return checkpoint
