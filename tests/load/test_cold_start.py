"""What a start may not import, and that what measures it runs; how fast it is, no test asks."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.load import cold_start

_SERVING = """
import asyncio, sys
from app.api.application import create_app
from app.settings import Settings

async def start():
    app = create_app(Settings())
    async with app.router.lifespan_context(app):
        print(" ".join(sys.modules))

asyncio.run(start())
"""
_HEAVY = {"torch", "scipy", "pyarrow", "httpx"}


@pytest.mark.slow
def test_a_server_that_is_ready_has_imported_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SERVING], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "model.engines" in done.stdout.split()
    assert not _HEAVY & set(done.stdout.split())


@pytest.mark.slow
def test_starts_take_time_and_memory() -> None:
    bare, server = cold_start.start_bare(), cold_start.start_server(idle_seconds=0)

    for found in (bare, server):
        assert found.seconds > 0
        assert found.mib > 20


def test_ratios_of_starts_are_medians_of_the_rounds() -> None:
    rounds = [
        (cold_start.Start(2.0, 100), cold_start.Start(2.0 * times, 150)) for times in (1.2, 4, 1.1)
    ]

    lines = list(cold_start.describe(rounds))

    assert lines[1].split() == ["dropserve", "serve", "2.40", "s", "150", "MiB"]
    assert lines[2] == "time 1.20 times (wanted: 2.2), memory 1.50 times (wanted: 2.0)"
