"""One distribution over a few classes, in plain Python: for ten numbers that is the faster way.

A call into NumPy costs a microsecond and its share of the caches, ten times what it computes here.
For many distributions at a time see `uncertainty` and `calibration`, which say the same.
"""

import math
import operator
from collections.abc import Sequence

Distribution = list[float]


def softmax(logits: Sequence[float]) -> Distribution:
    """exp(z) / sum exp(z), from C logits."""
    largest = max(logits)
    exponentials = list(map(math.exp, [z - largest for z in logits]))
    total = sum(exponentials)
    return [x / total for x in exponentials]


def entropy(probs: Sequence[float]) -> float:
    """Shannon entropy, nats, 0 to ln C; x log x is 0 at 0. See `uncertainty.entropy`."""
    positive = [p for p in probs if p > 0]
    information: float = sum(map(operator.mul, positive, map(math.log, positive)))
    return max(-information, 0.0)


def soften(probs: Sequence[float], temperature: float) -> Distribution:
    """The probabilities to the power 1 / temperature, normalised; 1 changes nothing.

    That is softmax(log(probs) / temperature); see `calibration.apply_temperature`.
    """
    if temperature == 1:
        return list(probs)
    # Over the largest, so that no power underflows in all classes.
    largest, exponent = max(probs), 1 / temperature
    powers = [(p / largest) ** exponent for p in probs]
    total = sum(powers)
    return [x / total for x in powers]
