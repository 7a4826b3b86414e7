"""What a start may not import, and that what measures it runs; how fast it is, no test asks."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

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
def test_the_command_prints_both_ratios() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.load.cold_start", "--rounds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    last = done.stdout.splitlines()[-1]
    assert last.startswith("time ")
    assert " memory " in last
