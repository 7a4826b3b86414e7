"""What every test of scoring needs."""

import os

import pytest


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from outside."""
    for variable in os.environ:
        if variable.startswith("DROPSERVE_"):
            monkeypatch.delenv(variable)
