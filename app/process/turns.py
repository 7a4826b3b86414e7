"""Starts requests a few at a time, so that no turn of the event loop is long.

What hundreds of clients ask at once would otherwise be answered in one turn, in a tenth of a second
or more, and only then are new connections accepted, requests refused and health checks read.
"""

import asyncio
from collections import deque
from collections.abc import Callable

# Small ones take 10 ms, and twice the number hardly takes less for each.
STARTED_IN_A_TURN = 64
# After this number, of one turn or of several, the next turn is noticed, which costs a microsecond.
_COUNTED_FROM = 8


class Turns:
    """Calls functions, a few in each turn of the event loop, the others later in their order."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._left = STARTED_IN_A_TURN

    def call(self, function: Callable[[], object]) -> None:
        """Calls it, now if possible."""
        if not self._left:
            self._waiting.append(function)
            return
        self._left -= 1
        if self._left == STARTED_IN_A_TURN - _COUNTED_FROM:
            asyncio.get_running_loop().call_soon(self._next)
        function()

    def _next(self) -> None:
        self._left = STARTED_IN_A_TURN
        while self._waiting and self._left:
            self.call(self._waiting.popleft())
