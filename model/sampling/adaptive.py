"""Early stopping: the smallest number of passes whose mean is precise enough."""

import numpy as np

from model.arrays import Probs
from model.uncertainty.statistics import summarise

# A standard error of fewer passes is unreliable, since the distribution of a pass is very skewed.
LEAST_PASSES = 32
# Passes from one check of the criterion to the next; the answer does not depend on it.
CHECK_PASSES = 32


def sufficient_passes(probs: Probs, checked: int, max_standard_error: float) -> int | None:
    """Finds the smallest number of passes whose largest standard error is small enough.

    Args:
        probs: independent passes from the first on, (T, C). Balanced passes cannot stop early,
            since their masks depend on T.
        checked: number of passes up to which the criterion is known not to be met.
        max_standard_error: upper bound of the standard error of every class's mean, above 0.

    Returns:
        A number from `LEAST_PASSES` to T, or None if further passes are needed.
    """
    first = max(LEAST_PASSES, checked + 1)
    # Relative to the first pass, since the squares of nearly equal numbers would cancel.
    p = probs.astype(np.float64) - probs[0]
    counts = np.arange(1, len(p) + 1)[:, None]
    means = p.cumsum(axis=0) / counts
    squares = np.maximum((p * p).cumsum(axis=0) / counts - means**2, 0)
    # Running sums round, so the exact criterion also judges numbers that miss it narrowly.
    errors = np.sqrt(squares / np.maximum(counts - 1, 1)).max(axis=1) * (1 - 1e-6) - 1e-9
    for passes in range(first, len(p) + 1):
        promising = errors[passes - 1] <= max_standard_error
        # The answer's own statistic decides, so that the answer never contradicts itself.
        if promising:
            error = summarise(probs[:passes]).standard_error
            if error is not None and error.max() <= max_standard_error:
                return passes
    return None
