"""A job: the MC-dropout computation of one image, in steps that the scheduler can interleave."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from app.schemas import McParameters, McPrediction
from model.arrays import Floats
from model.digits.preprocessing import Preprocessed
from model.engines.protocol import Prepared
from model.literals import StopReason
from model.pixels import Box
from model.sampling.adaptive import CHECK_PASSES, sufficient_passes
from model.sampling.masks import Passes, round_rate
from model.sampling.settling import LOOKS, next_look

# Drawn seeds stay below this: short enough to read out, and repeated exactly by every JSON parser.
_DRAWN_SEED_BITS = 32
# A stream sends about this many partial results.
_PARTIAL_RESULTS = 10
_LEAST_PARTIAL_PASSES = 4


def draw_seed() -> int:
    """A seed from the system's entropy."""
    return secrets.randbits(_DRAWN_SEED_BITS)


class Owner(Protocol):
    """Computes jobs, and makes their answers, with one network."""

    def step(self, job: "Job", cost: int) -> int:
        """Computes passes of about that cost; returns what they cost."""
        ...

    def answer(self, job: "Job") -> McPrediction:
        """The answer from the passes so far."""
        ...

    def has_settled(self, job: "Job") -> bool:
        """Whether further passes would hardly change the decision; asked at each look."""
        ...


class Job:
    """The MC-dropout computation of one image; see `scheduler.Job`.

    Attributes:
        owner: what computes it.
        pixels: what the network sees: uint8, (28, 28), or an input of the network's own shape.
        boxes: of the digits in the picture, if there are several.
        steps: of preparing it, if they were asked for.
        passes: which passes: their number, seed, estimator and dropout rate.
        prepared: what the passes share; None until it is computed.
        dropped: per pass the dropped units as base64 bits, if they were asked for.
        probs: class probabilities of the passes so far, float32, (passes, C).
        stop_reason: why no further passes are computed; None while they are.
    """

    def __init__(
        self,
        image: Preprocessed,
        parameters: McParameters,
        *,
        owner: Owner | None = None,
        steps: Mapping[str, str] | None = None,
        is_streamed: bool = False,
    ) -> None:
        seed = draw_seed() if parameters.seed is None else parameters.seed
        self.owner = owner
        self.pixels = image.pixels
        self.boxes: Sequence[Box] = image.boxes
        self.steps = steps
        self.parameters = parameters
        rate = None if parameters.dropout is None else round_rate(parameters.dropout)
        self.passes = Passes(parameters.passes, seed, parameters.estimator, rate)
        self.prepared: Prepared | None = None
        self.dropped: list[str] | None = None
        self.probs: Floats | None = None
        self.stop_reason: StopReason | None = None
        self.done = 0
        self._is_streamed = is_streamed
        # A partial result or a check is due after each multiple of this number of passes.
        self._stride = self.passes.count
        if is_streamed:
            partial = -(-self.passes.count // _PARTIAL_RESULTS)
            self._stride = max(partial, _LEAST_PARTIAL_PASSES)
        if parameters.max_standard_error is not None:
            self._stride = min(self._stride, CHECK_PASSES)

    @property
    def remaining(self) -> int:
        """Passes that were asked for and not computed."""
        return self.passes.count - self.done

    @property
    def is_finished(self) -> bool:
        """Whether its answer can be made."""
        return self.stop_reason is not None

    @property
    def next_stop(self) -> int:
        """The number of passes after which a partial result, a check or the answer is due."""
        stop = min(self.done - self.done % self._stride + self._stride, self.passes.count)
        return stop if self.parameters.until is None else min(stop, next_look(self.done))

    @property
    def has_partial_result(self) -> bool:
        """Whether a partial result is due now."""
        return self._is_streamed and self.done % self._stride == 0

    @property
    def needs_masks(self) -> bool:
        """Whether preparing takes whole masks, which takes as long as computing the passes."""
        return self.passes.estimator == "balanced" or self.parameters.return_passes

    def advance(self, probs: Floats) -> None:
        """Takes the probabilities of the next passes, (passes, C)."""
        looked_at = self.done
        self.probs = probs if self.probs is None else np.concatenate([self.probs, probs])
        self.done = len(self.probs)
        target = self.parameters.max_standard_error
        if target is not None:
            enough = sufficient_passes(self.probs, looked_at, target)
            if enough is not None:
                self.probs = self.probs[:enough]
                self.stop_reason = "standard_error"
                return
        if self.remaining == 0:
            self.stop_reason = "passes"
        elif self.parameters.until is not None and self.done in LOOKS:
            assert self.owner is not None
            if self.owner.has_settled(self):
                self.stop_reason = "decision"
