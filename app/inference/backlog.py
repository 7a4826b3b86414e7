"""What a resource has been asked for and not done yet, and how long the next request would wait.

Who shares a resource by these rules can be promised a time: smaller requests come first, and the
oldest gets a quarter of the time whatever its size, so that it is not starved. A large request then
delays a small one by its share only, however large it is.
"""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

# Of the time, while smaller requests are waiting.
_SHARE_OF_OLDEST = 0.25
# What the oldest gets for each unit that others get.
_OLDEST_TO_OTHERS = _SHARE_OF_OLDEST / (1 - _SHARE_OF_OLDEST)
SIZES = 16
# The pace is that of so much time; the first guess counts like as much. In a longer time too much
# is admitted when overload begins and each thread gets less of the processor.
_MEMORY_SECONDS = 0.4


def size_of(cost: int) -> int:
    """The class of requests that cost about as much: a power of eight.

    In finer classes a request would wait for all that are slightly smaller and came later.
    """
    return min((cost.bit_length() + 2) // 3, SIZES - 1)


class Pace:
    """How much is done in a second of a clock, others' use of the processor included.

    Args:
        first_guess: units of cost in a second, replaced by measurements.
        memory_seconds: the time that it is the mean of.
    """

    def __init__(self, first_guess: float, memory_seconds: float = _MEMORY_SECONDS) -> None:
        self._memory_seconds = memory_seconds
        self._done, self._seconds = first_guess * memory_seconds, memory_seconds

    @property
    def per_second(self) -> float:
        """Units of cost in a second."""
        return self._done / self._seconds

    def measure(self, cost: int, seconds: float) -> None:
        """Takes what was done, and the time that it took, into the pace.

        By time and not by the number of measurements: a pause, in which another process had the
        processor, counts for as long as it was.
        """
        if cost > 0 and seconds > 0:
            kept = math.exp(-seconds / self._memory_seconds)
            self._done = kept * self._done + cost
            self._seconds = kept * self._seconds + seconds


class Backlog:
    """The costs that a resource was charged with, by size, and its pace.

    Args:
        pace: what it does in a second, in units of cost; a first guess, replaced by measurements.
        note: called with each change of the total.
    """

    def __init__(self, pace: float, note: Callable[[int], None] | None = None) -> None:
        self.total = 0
        self._left = [0] * SIZES
        self._note = note
        self._oldest_is_owed = 0.0
        self._pace = Pace(pace)
        self.measure = self._pace.measure

    @property
    def pace(self) -> float:
        """Units of cost in a second; see `Pace`."""
        return self._pace.per_second

    def wait(self, cost: int) -> float:
        """Seconds that a request would wait if it came now and nothing came after it."""
        if not self.total:
            return 0.0
        ahead = sum(self._left[: size_of(cost) + 1])
        share_of_larger = min(self.total - ahead, (ahead + cost) * _OLDEST_TO_OTHERS)
        return (ahead + share_of_larger) / self.pace

    @property
    def takes_oldest(self) -> bool:
        """Whether it is the turn of the oldest, though it is larger than another."""
        return self._oldest_is_owed > 0

    def take(self, cost: int, *, of_oldest: bool) -> None:
        """Notes whose turn it was, where the oldest is larger than another."""
        self._oldest_is_owed += -cost if of_oldest else cost * _OLDEST_TO_OTHERS

    def change(self, size: int, cost: int) -> None:
        """Adds to what is left to do of a size, or subtracts if negative."""
        self._left[size] += cost
        self.total += cost
        if self._note is not None:
            self._note(cost)


class Charge:
    """What one request costs; it counts within a `with` block, as far as it is not done.

    Args:
        backlog: counts the cost.
        cost: of the request.
        note: called with 1 where the block begins, and with -1 where it ends.
    """

    def __init__(
        self, backlog: Backlog, cost: int, note: Callable[[int], None] | None = None
    ) -> None:
        self.cost, self.size = cost, size_of(cost)
        self._left = 0
        self._backlog, self._note = backlog, note

    def settle(self, left: int) -> None:
        """Sets what is left to do."""
        if left != self._left:
            self._backlog.change(self.size, left - self._left)
            self._left = left

    def __enter__(self) -> Self:
        if self._note is not None:
            self._note(1)
        self.settle(self.cost)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.settle(0)
        if self._note is not None:
            self._note(-1)


class Expected:
    """Counts requests that were let in until the next turn of the event loop.

    Their own tasks are admitted there, once all of them have stopped counting here.
    """

    def __init__(self) -> None:
        self._charges: list[Charge] = []

    def add(self, *charges: Charge) -> None:
        """Counts what a request costs."""
        if not self._charges:
            asyncio.get_running_loop().call_soon(self._end)
        for charge in charges:
            charge.settle(charge.cost)
            self._charges.append(charge)

    def _end(self) -> None:
        for charge in self._charges:
            charge.settle(0)
        self._charges.clear()
