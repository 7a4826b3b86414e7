"""Stops sampling as soon as the mean is known well enough."""

import numpy as np

from model.engines.relu_mlp import Engine, PassRange, PreparedImage, Probs
from model.literals import StopReason
from model.uncertainty.statistics import standard_error

# A standard error from fewer passes says little: single passes are very skewed.
LEAST_PASSES = 32
# Passes between two looks at the standard error; the answer does not depend on it.
LOOK_PASSES = 32


def sample_until(
    engine: Engine, image: PreparedImage, max_standard_error: float
) -> tuple[Probs, StopReason]:
    """Samples until the largest standard error of the mean is at most `max_standard_error`.

    The number of passes is the smallest, from `LEAST_PASSES` on, that meets the criterion.

    Args:
        engine: what samples.
        image: prepared for independent passes, at most as many as it is prepared for. (The masks of
            balanced ones depend on their number, which is not known before.)
        max_standard_error: above 0.

    Returns:
        Probabilities, (T, C), and why T is what it is.
    """
    probs = np.empty((0, engine.config.layer_sizes[-1]), dtype=np.float32)
    while len(probs) < image.passes.count:
        looked_at = len(probs)
        stop = min(looked_at + LOOK_PASSES, image.passes.count)
        (further,) = engine.sample([PassRange(image, looked_at, stop)])
        probs = np.concatenate([probs, further])
        enough = sufficient_passes(probs, looked_at, max_standard_error)
        if enough is not None:
            return probs[:enough], "standard_error"
    return probs, "passes"


def sufficient_passes(probs: Probs, looked_at: int, max_standard_error: float) -> int | None:
    """The smallest number of passes that meets the criterion, or None.

    Args:
        probs: all passes so far, (T, C).
        looked_at: up to how many passes the criterion is known not to be met.
        max_standard_error: see `sample_until`.
    """
    first = max(LEAST_PASSES, looked_at + 1)
    # Measured from the first pass, since the squares of nearly equal numbers would cancel.
    p = probs.astype(np.float64) - probs[0]
    counts = np.arange(1, len(p) + 1)[:, None]
    means = p.cumsum(axis=0) / counts
    squares = np.maximum((p * p).cumsum(axis=0) / counts - means**2, 0)
    # Running sums round: what misses narrowly is given to the exact criterion too.
    errors = np.sqrt(squares / np.maximum(counts - 1, 1)).max(axis=1) * (1 - 1e-6) - 1e-9
    for passes in range(first, len(p) + 1):
        promising = errors[passes - 1] <= max_standard_error
        # The statistics of the answer decide, so that it never contradicts itself.
        if promising and standard_error(probs[:passes]).max() <= max_standard_error:
            return passes
    return None
