"""Passes of several images, packed into blocks of rows for one matrix product per layer.

A row of a block is one pass of some image. An answer must not depend on what else is computed at
the same time, and a pass must not depend on how many passes are requested. Images can therefore
share a block only where the matrix library computes a row with the same bits whatever its place and
whatever the number of rows (from `LEAST_ROWS` on; libraries compute fewer in another way).
Otherwise every block holds passes of one image and has the same number of rows, and a pass is
always in the same row.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from model.arrays import Floats, Integers, KeepMasks, Pixels
from model.engines.protocol import PassRange, PreparedImage
from model.errors import CheckpointError
from model.network import MLP
from model.sampling.masks import Passes, balanced_keep, hidden_units
from model.uncertainty.distribution import softmax
from model.uncertainty.statistics import softmax_in_place

# 256 rows of the widest activation, 256 kB, lie well within an L2 cache together with the weights.
BLOCK_ROWS = 256
# Matrix libraries compute fewer rows in another way, with other low bits.
LEAST_ROWS = 16


class Segment(NamedTuple):
    """Consecutive passes of one image within a block.

    Attributes:
        image: the image.
        answer: index of the answer that the passes belong to.
        first: number of the pass in the segment's first row.
        skip: rows before the first requested pass.
        size: number of requested passes.
        rows: all rows, including padding at the end.
    """

    image: PreparedImage
    answer: int
    first: int
    skip: int
    size: int
    rows: int


class BlockEngine(ABC):
    """What engines that compute passes in blocks have in common; see `Engine` for the methods.

    Raises:
        CheckpointError: the network has activations other than ReLU.
    """

    def __init__(self, network: MLP) -> None:
        config = network.config
        if config.activation != "relu":
            raise CheckpointError(
                f"the network's hidden units are {config.activation}, and only ReLU networks can "
                "be served or evaluated"
            )
        self.network = network
        self.config = config
        self.passes_computed = 0
        self._first_units = config.hidden_sizes[0]
        self._shares_blocks = False
        self._row_multiple = 1

    @abstractmethod
    def predict_logits(self, pixels: Pixels) -> list[float]: ...

    @abstractmethod
    def prepare(
        self, pixels: Sequence[Pixels], passes: Sequence[Passes]
    ) -> list[PreparedImage]: ...

    @abstractmethod
    def _block_logits(self, block: Sequence[Segment]) -> Floats:
        """Computes the logits of one block, (rows, C or more)."""

    def predict_probs(self, pixels: Pixels) -> Floats:
        return np.array(softmax(self.predict_logits(pixels)), np.float32)

    def sample_probs(self, pixels: Pixels, passes: Passes) -> Floats:
        (image,) = self.prepare([pixels], [passes])
        return self.sample([PassRange(image, 0, passes.count)])[0]

    def sample(self, ranges: Sequence[PassRange]) -> list[Floats]:
        classes = self.config.layer_sizes[-1]
        answers = [np.empty((stop - start, classes), np.float32) for _, start, stop in ranges]
        for block in self._blocks(ranges):
            # Class by class, so that each step is one long vector.
            z = np.ascontiguousarray(self._block_logits(block)[:, :classes].T)  # (C, rows)
            probs = softmax_in_place(z, axis=0).T
            row = 0
            for segment in block:
                begin = row + segment.skip
                done = segment.first + segment.skip - ranges[segment.answer].start
                answers[segment.answer][done : done + segment.size] = probs[
                    begin : begin + segment.size
                ]
                row += segment.rows
                self.passes_computed += segment.size
        return answers

    def _draw_balanced(self, passes: Passes, active: Integers) -> KeepMasks | None:
        """Draws balanced masks, if the passes have them; see `PreparedImage.balanced`."""
        if passes.estimator != "balanced":
            return None
        later = np.arange(self._first_units, hidden_units(self.config))
        units = np.concatenate([active, later])
        return balanced_keep(self.config, passes.seed, passes.count, units)

    def _blocks(self, ranges: Sequence[PassRange]) -> Iterator[list[Segment]]:
        """Packs the passes into blocks of at most `BLOCK_ROWS` rows."""
        if not self._shares_blocks:
            yield from _fixed_blocks(ranges)
            return
        block: list[Segment] = []
        free = BLOCK_ROWS
        for answer, (image, start, stop) in enumerate(ranges):
            while start < stop:
                size = min(stop - start, free)
                rows = max(size, LEAST_ROWS)
                rows += -rows % self._row_multiple
                if rows > free:  # the padding does not fit
                    yield block
                    block, free = [], BLOCK_ROWS
                    continue
                block.append(Segment(image, answer, start, 0, size, rows))
                start += size
                free -= rows
                if free == 0:
                    yield block
                    block, free = [], BLOCK_ROWS
        if block:
            yield block


def _fixed_blocks(ranges: Sequence[PassRange]) -> Iterator[list[Segment]]:
    """Blocks of one image and one size, in which a pass is always in the same row."""
    for answer, (image, start, stop) in enumerate(ranges):
        for first in range(start - start % BLOCK_ROWS, stop, BLOCK_ROWS):
            skip = max(start - first, 0)
            size = min(stop - first, BLOCK_ROWS) - skip
            yield [Segment(image, answer, first, skip, size, BLOCK_ROWS)]
