"""Waits for what another task does."""

import asyncio
import time
from collections.abc import Callable

# Longer than anything takes here, and shorter than a test may.
PATIENCE_SECONDS = 10.0


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
