"""The interface that all engines share, and what callers compute through it."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from model.arrays import Floats, Pixels
from model.engines import kernels
from model.sampling.masks import DropoutSite, Passes

# What all passes of an image share; only the engine that made it knows what is in it.
Prepared = Any


class Engine(Protocol):
    """Computes the answers of one network, one image at a time.

    An answer has the same bits whatever else is computed before it or at the same time. All methods
    may be called from any thread.

    Attributes:
        dropout_sites: where the network's masks act, in order.
        block_passes: passes from a multiple of this number up to the next are best computed in one
            call: some of them alone take nearly as long.
        passes_computed: number of passes computed since the engine was built.
    """

    dropout_sites: tuple[DropoutSite, ...]
    block_passes: int
    passes_computed: int

    def predict_logits(self, pixels: Pixels) -> Floats:
        """Computes deterministic logits, (C,), dropout off.

        Args:
            pixels: ink 0 to 255, (28, 28).
        """
        ...

    def prepare(self, pixels: Pixels, passes: Passes) -> Prepared:
        """Computes what the passes of an image share, such as layer 1 and balanced masks.

        Args:
            pixels: ink 0 to 255, (28, 28).
            passes: the passes that will be sampled.
        """
        ...

    def sample(self, prepared: Prepared, start: int, stop: int) -> Floats:
        """Computes the class probabilities of passes, from `start` up to but not including `stop`.

        Returns:
            (stop - start, C). The bits of a pass depend on its image, its number and the `Passes`
            that it was prepared for only.
        """
        ...

    def sample_images(self, pixels: Pixels, seeds: Sequence[int], passes: Passes) -> Floats:
        """Computes all passes of many images in one call, with the bits of `sample`.

        Args:
            pixels: ink 0 to 255, (B, 28, 28).
            seeds: of each image, in place of that of `passes`.
            passes: how many, and of which kind.

        Returns:
            (B, T, C).
        """
        ...


def predict_probs(engine: Engine, pixels: Pixels) -> Floats:
    """Computes deterministic class probabilities, (C,): the softmax of the logits."""
    logits = engine.predict_logits(pixels)
    probs = np.empty_like(logits)
    kernels.softmax_rows(logits[None], np.empty(len(logits)), probs[None])
    return probs


def sample_probs(engine: Engine, pixels: Pixels, passes: Passes) -> Floats:
    """Computes the class probabilities of all passes of one image, (T, C)."""
    return engine.sample(engine.prepare(pixels, passes), 0, passes.count)
