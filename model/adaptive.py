"""Stops sampling as soon as the mean is known well enough."""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from model.engine import Engine, PassRange, PreparedImage, Probs
from model.uncertainty import standard_error

StopReason = Literal["passes", "standard_error"]

# A standard error from fewer passes says little: single passes are very skewed.
LEAST_PASSES = 32
# Passes per look at the standard error; the answer does not depend on it.
_STEP = 32


def sample_until(
    engine: Engine, image: PreparedImage, max_standard_error: float
) -> tuple[Probs, StopReason]:
    """Samples until the largest standard error of the mean is at most `max_standard_error`.

    The criterion is looked at after every single pass from `LEAST_PASSES` on, so the number of
    passes is the smallest that meets it.

    Args:
        engine: what samples.
        image: prepared for independent passes, at most as many as it is prepared for. (The masks of
            balanced ones depend on their number, which is not known before.)
        max_standard_error: above 0.

    Returns:
        Probabilities, (T, C), and why T is what it is.
    """
    probs = np.empty((0, engine.config.layer_sizes[-1]), dtype=np.float32)
    for stop in _steps(image.passes.count):
        (further,) = engine.sample([PassRange(image, len(probs), stop)])
        probs = np.concatenate([probs, further])
        for passes in _promising(probs, max_standard_error):
            # The statistics of the answer decide, so that it never contradicts itself.
            if standard_error(probs[:passes]).max() <= max_standard_error:
                return probs[:passes], "standard_error"
    return probs, "passes"


def _steps(count: int) -> Iterator[int]:
    yield from range(_STEP, count, _STEP)
    yield count


def _promising(probs: Probs, max_standard_error: float) -> Iterator[int]:
    """The numbers of passes, in the last step, that meet the criterion by running sums."""
    p = probs.astype(np.float64)
    counts = np.arange(1, len(p) + 1)[:, None]
    means = p.cumsum(axis=0) / counts
    squares = np.maximum((p * p).cumsum(axis=0) / counts - means**2, 0)
    # Running sums round: what misses narrowly is given to the exact criterion too.
    errors = np.sqrt(squares / np.maximum(counts - 1, 1)).max(axis=1) * (1 - 1e-6) - 1e-9
    first = max(LEAST_PASSES, len(p) - _STEP + 1)
    for passes in range(first, len(p) + 1):
        if errors[passes - 1] <= max_standard_error:
            yield passes
