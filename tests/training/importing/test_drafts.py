"""What a draft refuses of any file."""

import numpy as np
import pytest

from model.layers import LinearLayer
from training.errors import TrainingError
from training.importing.drafts import Draft


def test_one_array_in_every_layer_is_refused_before_it_fills_the_memory() -> None:
    """A file of 9 MB may name its weights again and again."""
    draft = Draft((1500,))
    tensors = {"weight": np.zeros((1500, 1500)), "bias": np.zeros(1500)}
    for number in range(29):  # of 9 MB each
        draft.add(f"linear {number}", LinearLayer(1500), tensors)
    with pytest.raises(TrainingError, match="linear 29: more than 268,435,456 bytes of weights"):
        draft.add("linear 29", LinearLayer(1500), tensors)


def test_nothing_comes_after_the_softmax() -> None:
    draft = Draft((2,))
    draft.end_in("softmax", "softmax")
    with pytest.raises(TrainingError, match="again comes after softmax"):
        draft.end_in("again", "log_softmax")
    with pytest.raises(TrainingError, match="dropout comes after softmax"):
        draft.add_dropout("dropout", 0.5)
