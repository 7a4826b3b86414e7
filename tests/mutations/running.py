"""Tests of a copy of the working tree, in which code is changed.

A process for each run is forked from this one, which has imported what takes long and nothing of
the project's: that leaves the time that the tests take.
"""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
_IMPORTED = (
    *("cv2", "fastapi", "httpx", "hypothesis", "numba.np.arraymath", "numpy", "orjson", "pyarrow"),
    *("PIL.Image", "pytest", "pytest_asyncio", "pytest_timeout", "uvicorn"),
    *("uvicorn.protocols.http.httptools_impl", "uvloop", "xdist"),
)
_PYTEST = ("-x", "-q", "--assert=plain", "-p", "no:cacheprovider")
# An endless loop ends by it, however busy the machine is. No test takes half of it.
_PROCESSOR_SECONDS = 6

# Compiled functions: as they are kept; each where it is first called, since all would be compiled
# anew for a change in one; or interpreted.
Compiling = Literal["kept", "lazily", "off"]


@contextmanager
def copy_of_the_tree() -> Iterator[Path]:
    """The files that git tracks or would add, as they are now, with their byte code."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                target = Path(folder, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, target, follow_symlinks=False)
        command = [sys.executable, "-m", "compileall", "-q", "app", "model", "tests", "training"]
        subprocess.run(command, cwd=folder, check=True)
        yield Path(folder)


def do_pass(tests: Sequence[str], folder: Path, compiling: Compiling = "kept") -> bool:
    """Whether tests pass; arguments of pytest, in the copy."""
    for name in _IMPORTED:
        importlib.import_module(name)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = _run(tests, folder, compiling)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def _run(tests: Sequence[str], folder: Path, compiling: Compiling) -> int:
    """In a process of its own; returns pytest's exit code."""
    import pytest

    output = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(folder)
    sys.path[0] = str(folder)
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]
    for name in list(sys.modules):
        if name.partition(".")[0] in ("app", "model", "tests"):
            del sys.modules[name]
    # Byte code is not written, since a change may keep a file's size and second.
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    if compiling == "off":
        import numba

        numba.config.DISABLE_JIT = 1
    elif compiling == "lazily":
        compiling_module: Any = importlib.import_module("model.compiling")
        compiling_module.compile_all = lambda: None
    return int(pytest.main([*_PYTEST, *tests], plugins=[_Limit()]))


class _Limit:
    """A plugin of pytest: the signal that ends a process comes if a test takes too long."""

    def __init__(self) -> None:
        self.pytest_runtest_setup()  # for what is imported before the first

    def pytest_runtest_setup(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, _PROCESSOR_SECONDS)
