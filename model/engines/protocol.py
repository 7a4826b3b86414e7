"""The interface that all engines share, and the values that it takes."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from model.arrays import Floats, Integers, KeepMasks, Pixels
from model.network import MLP, MLPConfig
from model.sampling.masks import Passes


class PreparedImage(NamedTuple):
    """What all passes of an image share.

    Attributes:
        passes: the passes that it is prepared for.
        active: indices of the active units of layer 1, (K,). All others are 0 in every pass.
        activations: layer 1 of the active units, after its ReLU, (K,).
        balanced: balanced masks of the active and of all later hidden units, (T, K + units);
            None for independent masks, which are drawn pass by pass.
    """

    passes: Passes
    active: Integers
    activations: Floats
    balanced: KeepMasks | None


class PassRange(NamedTuple):
    """Consecutive passes of an image, numbered from `start` up to but not including `stop`."""

    image: PreparedImage
    start: int
    stop: int


class Engine(Protocol):
    """Computes the answers of one network.

    An answer has the same bits whatever else is computed in the same call or before it.
    `sample` reuses buffers, so only one thread may call it at a time. The other methods are safe
    to call from any thread.

    Attributes:
        network: the network.
        config: its configuration.
        passes_computed: number of passes computed since the engine was built.
    """

    network: MLP
    config: MLPConfig
    passes_computed: int

    def predict_logits(self, pixels: Pixels) -> list[float]:
        """Computes deterministic logits, dropout off.

        Args:
            pixels: ink 0 to 255, (28, 28).

        Returns:
            C numbers.
        """
        ...

    def predict_probs(self, pixels: Pixels) -> Floats:
        """Computes deterministic class probabilities, (C,): the softmax of `predict_logits`."""
        ...

    def prepare(self, pixels: Sequence[Pixels], passes: Sequence[Passes]) -> list[PreparedImage]:
        """Computes what the passes of each image share: layer 1 and balanced masks.

        Args:
            pixels: images, each ink 0 to 255, (28, 28).
            passes: the passes that will be sampled, one entry per image.
        """
        ...

    def sample(self, ranges: Sequence[PassRange]) -> list[Floats]:
        """Computes the class probabilities of passes, of any number of images.

        Returns:
            For each range an array (stop - start, C). The bits of a pass depend on its image, its
            number and `PreparedImage.passes` only.
        """
        ...

    def sample_probs(self, pixels: Pixels, passes: Passes) -> Floats:
        """Computes the class probabilities of all passes of one image, (T, C)."""
        ...
