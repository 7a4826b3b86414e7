"""Mean and range of what several seeds give."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The mean of some values, and how far they lie apart."""

    mean: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        return cls(sum(values) / len(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        """`0.9165 (0.9160-0.9171)` for `.4f`; any format of floats will do."""
        mean, lowest, highest = (
            format(each, spec) for each in (self.mean, self.lowest, self.highest)
        )
        return f"{mean} ({lowest.removesuffix('%')}-{highest.removesuffix('%')})"
