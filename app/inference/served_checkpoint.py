"""The checkpoint that the settings name."""

from app.inference.encoding import encode_json
from app.settings import Settings
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.errors import CheckpointError
from model.literals import SIDE


def load_served_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint that the settings name, or the committed one.

    Raises:
        CheckpointError: it cannot be read, its network takes other images than are served, or its
            description cannot be sent.
    """
    path = settings.checkpoint or DEFAULT_CHECKPOINT
    checkpoint = load_checkpoint(path)
    shape = checkpoint.network.config.input_shape
    if shape != (SIDE, SIDE):
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
