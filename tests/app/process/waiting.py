"""Waits for what another task does."""

import asyncio
import time
from collections.abc import Callable

# Longer than anything takes here, a machine that stands still for ten seconds included, and shorter
# than a test may.
PATIENCE_SECONDS = 60.0


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
