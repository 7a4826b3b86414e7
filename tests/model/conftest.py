"""Functions are compiled as in a server, which takes seconds only once."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _compiled() -> None:
    from model.compiling import compile_all

    compile_all()
