"""Functions are compiled as in a server, which takes seconds only once."""

import sys

import pytest


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    if "model.compiling" in sys.modules:  # not for tests that call nothing compiled
        from model.compiling import compile_all

        compile_all()
