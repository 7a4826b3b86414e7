"""Runs commands without settings from outside."""

import os

import pytest

from app.cli.main import main


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from outside."""
    for variable in os.environ:
        if variable.startswith("DROPSERVE_"):
            monkeypatch.delenv(variable)


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code
