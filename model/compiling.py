"""Compiled functions: Numba's machine code, made once per installation and level of CPUs.

Code is compiled for a level rather than for the host's own CPU, so that it is valid on every
machine of that level. It is kept in a folder: in the installation, where
`python -m model.compiling` puts it for all levels (as in the image), or else in the user's cache.
Either may be read-only; without both, every start compiles.
"""

import hashlib
import importlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm

try:
    import fcntl
except ImportError:  # Windows, where processes that start together all compile
    fcntl = None  # type: ignore[assignment]

F = TypeVar("F", bound=Callable[..., Any])

_MODEL = Path(__file__).parent
_INSTALLED = _MODEL / "compiled"
# The modules with functions that Python calls; their code decides whether a folder is up to date.
_MODULES = "engines.kernels", "sampling.masks", "uncertainty.calibration", "uncertainty.statistics"
_SOURCES = *_MODULES, "compiling", "elementary"

LEVELS = ("x86-64-v3", "generic") if platform.machine() in ("x86_64", "AMD64") else ("generic",)
_V3_FEATURES = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")


def _level() -> str:
    features = llvm.get_host_cpu_features()
    return LEVELS[0] if all(features.get(name) for name in _V3_FEATURES) else "generic"


# Numba reads its settings when it is imported. Without features of their own, CPUs have those that
# their name implies.
_LEVEL = os.environ.setdefault("NUMBA_CPU_NAME", _level())
os.environ.setdefault("NUMBA_CPU_FEATURES", "")
os.environ["NUMBA_CACHE_LOCATOR_CLASSES"] = "model.compiling.Locator"

import numba  # noqa: E402

_declared: list[tuple[Any, str]] = []


def compiled(signature: str = "") -> Callable[[F], F]:
    """Declares a compiled function, which runs without the interpreter's lock.

    Nothing is reordered or fused, since fast-math is off: the bits are the same on every CPU.

    Args:
        signature: Numba's, of a function that Python calls. Without one, only compiled functions
            may call it.
    """

    def declare(function: F) -> F:
        made = numba.njit(nogil=True, error_model="numpy", cache=bool(signature))(function)
        if signature:
            _declared.append((made, signature))
        return made

    return declare


def compile_all() -> None:
    """Makes sure that everything is compiled, so that no request waits for it.

    It says on stderr when it must compile, which takes some ten seconds. Processes that start
    together compile once.
    """
    for module in _MODULES:
        importlib.import_module(f"model.{module}")
    folder = _folder()
    done = folder / "complete"
    if not done.exists():
        with _locked(folder / "lock"):
            if not done.exists():
                _compile_with_notice(folder)
                done.touch()
                return
    _compile()


def _compile_with_notice(folder: Path) -> None:
    sys.stderr.write(f"compiling the engine for {_LEVEL} CPUs, once per installation ...\n")
    began = time.monotonic()
    _compile()
    kept = f"kept in {folder}"
    if folder == _temporary():
        kept = (
            f"not kept, since {_user_cache()} cannot be written: set NUMBA_CACHE_DIR to a folder, "
            "or run python -m model.compiling once where Dropserve is installed"
        )
    sys.stderr.write(f"compiled in {time.monotonic() - began:.1f} s; {kept}\n")


def _compile() -> None:
    for function, signature in _declared:
        function.compile(signature)
        function.disable_compile()  # other types would be compiled for every caller's first time
    _declared.clear()


class Locator:
    """Where Numba finds and keeps machine code; its own locators all need write access."""

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> "Locator":
        return cls(file)

    def __init__(self, file: str) -> None:
        self._py_file = file  # which a warning of Numba's names

    def get_cache_path(self) -> str:
        return str(_folder())

    def ensure_cache_path(self) -> None: ...

    def get_source_stamp(self) -> str:
        return _stamp()

    def get_disambiguator(self) -> str:
        return _LEVEL


@cache
def _stamp() -> str:
    """A hash of all sources: Numba's own is of one file, which may call functions of others."""
    files = [_MODEL.joinpath(*name.split(".")).with_suffix(".py") for name in _SOURCES]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@cache
def _folder() -> Path:
    optimisation = os.environ.get("NUMBA_OPT", "3")
    name = f"{sys.implementation.cache_tag}-{numba.__version__}-{_LEVEL}-O{optimisation}"
    name += f"-{_stamp()[:12]}"
    if (_INSTALLED / name / "complete").exists() and "NUMBA_CACHE_DIR" not in os.environ:
        return _INSTALLED / name
    folder = _user_cache() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError:
        if not (folder / "complete").exists():
            return _temporary()
    return folder


def _user_cache() -> Path:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "dropserve"


@cache
def _temporary() -> Path:
    return Path(tempfile.mkdtemp(prefix="dropserve-"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits until no other process has the lock."""
    with path.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Compiles for all levels, into the installation."""
    for level in LEVELS:
        environ = {**os.environ, "NUMBA_CPU_NAME": level, "NUMBA_CACHE_DIR": str(_INSTALLED)}
        command = "from model.compiling import compile_all; compile_all()"
        subprocess.run([sys.executable, "-c", command], env=environ, check=True)


if __name__ == "__main__":
    main()
