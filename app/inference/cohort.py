"""Lets requests that came together go through each stage of their answers together.

All the code that answers a request does not fit the nearest caches of a processor. What one stage
does for many requests in a row, such as decoding, finds its code there for all but the first; see
Larus and Parkes 2002, "Using Cohort Scheduling to Enhance Server Performance".
"""

import asyncio


class Cohort:
    """The requests that wait for others to come as far as they are."""

    def __init__(self) -> None:
        self._waiting = 0
        self._begun = 0  # in this turn of the event loop
        self._are_several = False  # that began in the latest turn in which any did

    async def begin(self) -> None:
        """Begins the first stage, with those that came in the same turn of the event loop.

        They cannot be seen yet, so it waits for them if there were several the last time.
        """
        self._begun += 1
        if self._begun == 1:
            asyncio.get_running_loop().call_soon(self._end_turn)
        if self._are_several:
            await self._wait()

    async def begin_stage(self) -> None:
        """Begins another stage after those that are behind; one alone goes on."""
        if self._waiting:
            await self._wait()

    def _end_turn(self) -> None:
        self._are_several, self._begun = self._begun > 1, 0

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._waiting -= 1
