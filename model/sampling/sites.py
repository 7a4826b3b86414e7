"""Where dropout acts, and the rates that it can have; imports nothing that takes long."""

from typing import NamedTuple

# A dropout rate is a multiple of 1/256, so that one random byte decides one unit exactly.
RATE_STEPS = 256


def round_rate(rate: float) -> float:
    """Rounds a dropout rate to the nearest multiple of 1/256."""
    return round(rate * RATE_STEPS) / RATE_STEPS


class DropoutSite(NamedTuple):
    """A place in a network where dropout acts.

    Attributes:
        units: number of units that are dropped or kept.
        rate: the probability of zeroing a unit, in [0, 1), a multiple of 1/256.
        is_input: whether the units are the network's inputs, whose rate requests do not change.
    """

    units: int
    rate: float
    is_input: bool = False
