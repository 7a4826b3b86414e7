"""Runs commands without settings from outside."""

import os
import signal
from collections.abc import Iterator

import pytest

from app.__main__ import main


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and no signal handled as by the program later on."""
    handler = signal.getsignal(signal.SIGTERM)
    for variable in os.environ:
        if variable.startswith("DROPSERVE_"):
            monkeypatch.delenv(variable)
    yield
    signal.signal(signal.SIGTERM, handler)


def run(*arguments: str) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code
