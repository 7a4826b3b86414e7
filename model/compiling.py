"""Compiled functions: Numba's machine code, made once per installation and level of CPUs.

Code is compiled for a level rather than for the host's own CPU, so that it is valid on every
machine of that level. It is kept in the installation, where `python -m model.compiling` puts it for
all levels, or else in the user's cache; without both, every start compiles.
"""

import hashlib
import importlib
import multiprocessing
import os
import platform
import subprocess  # nosec B404: see _compile_elsewhere
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import llvmlite.binding as llvm

from model.code_folders import (
    INSTALLED,
    Locator,
    complete,
    is_complete,
    locked,
    own_folder,
    prepare,
)

# Where SciPy is installed, Numba imports it for products of matrices, which takes as long again.
_BLOCKED: dict[str, Any] = {} if "scipy" in sys.modules else {"scipy": None}
sys.modules.update(_BLOCKED)
import numba  # noqa: E402
import numba.np.arraymath  # noqa: E402
from numba import config  # noqa: E402
from numba.core.sigutils import normalize_signature  # noqa: E402

for _module in _BLOCKED:
    del sys.modules[_module]

F = TypeVar("F", bound=Callable[..., Any])

# The modules with functions that Python calls.
_MODULES = (
    "digits.fitting",
    "engines.kernels",
    "pixels",
    "png",
    "sampling.masks",
    "uncertainty.calibration",
    "uncertainty.statistics",
)

LEVELS = ("x86-64-v3", "generic") if platform.machine() in ("x86_64", "AMD64") else ("generic",)
_V3 = ("avx2", "bmi", "bmi2", "cx16", "f16c", "fma", "lzcnt", "movbe", "popcnt", "sahf", "sse4.2")

_declared: list[tuple[Any, str]] = []
_sources = {__file__}
_constants: set[tuple[str, int | float]] = set()  # which may come from other files
_lock = threading.Lock()


def _level() -> str:
    """The highest level that this machine has."""
    if len(LEVELS) > 1 and all(map(llvm.get_host_cpu_features().get, _V3)):
        return LEVELS[0]
    return "generic"


# NUMBA_CPU_NAME and NUMBA_CPU_FEATURES come first. Empty features: those that the name implies.
config.CPU_NAME = config.CPU_NAME or _level()
config.CPU_FEATURES = config.CPU_FEATURES or ""


def compiled(signature: str = "") -> Callable[[F], F]:
    """Declares a compiled function, which runs without the interpreter's lock.

    Nothing is reordered or fused, since fast-math is off: the bits are the same on every CPU.
    A call before `compile_all` compiles for the types of its arguments, which is not kept.

    Args:
        signature: Numba's, of a function that Python calls. Without one, only compiled functions
            may call it.
    """

    def declare(function: F) -> F:
        _sources.add(function.__code__.co_filename)
        for name in function.__code__.co_names:
            if isinstance(value := function.__globals__.get(name), int | float):
                _constants.add((name, value))
        # A call would count references to its arrays, which takes as long as a short loop.
        inline = "never" if signature else "always"
        made: F = numba.njit(nogil=True, error_model="numpy", inline=inline)(function)
        if signature and not config.DISABLE_JIT:
            _declared.append((made, signature))
        return made

    return declare


def compile_all() -> None:
    """Makes sure that everything is compiled, so that no request waits for it.

    It says on stderr when it must compile, which takes some twenty seconds: in another process, if
    the code can be kept. Processes that start together compile once; later calls do nothing.
    """
    _compile_all(elsewhere=True)


def compile_here() -> None:
    """Does the same in this process alone, which then keeps the compiler's memory."""
    _compile_all(elsewhere=False)


def _compile_all(elsewhere: bool) -> None:
    with _lock:
        for module in _MODULES:
            importlib.import_module(f"model.{module}")
        if not _declared:
            return None
        name = _folder_name()
        if is_complete(INSTALLED / name):
            return _load_or_compile(INSTALLED / name)
        folder = own_folder(config.CACHE_DIR, name)
        # Unoptimised code cannot be kept.
        if elsewhere and folder and config.OPT and not is_complete(folder):
            _compile_elsewhere()
        if not is_complete(folder):
            with locked(folder):
                if not is_complete(folder):  # and no other process was first
                    return _compile_with_notice(folder)
        return _load_or_compile(folder)


def _compile_elsewhere() -> None:
    """Compiles in a process that ends: the compiler leaves 120 MB, which a server would keep."""
    # Ctrl-C ends it without a traceback; this process says what there is to say.
    command = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    command += "from model.compiling import compile_here; compile_here()"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with suppress(OSError):
        subprocess.run(  # nosec B603: this program itself
            [sys.executable, "-P", "-c", command],
            env=environ,
            stdin=subprocess.DEVNULL,
            check=False,
        )


def _compile_with_notice(folder: Path | None) -> None:
    cpus = f"{config.CPU_NAME} CPUs"
    sys.stderr.write(f"compiling the engine for {cpus}, once per installation ...\n")
    began, functions = time.monotonic(), len(_declared)
    if folder and not prepare(folder):
        folder = None
    _load_or_compile(folder)
    seconds = time.monotonic() - began
    kept = "not kept: set NUMBA_CACHE_DIR to a folder that this user can write"
    if folder and complete(folder, functions):
        kept = f"kept in {folder}"
    sys.stderr.write(f"compiled in {seconds:.1f} s; {kept}\n")


def _load_or_compile(folder: Path | None) -> None:
    Locator.folder = folder
    others = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = f"{Locator.__module__}.{Locator.__name__}"
    for function, _ in _declared if folder else ():
        function.enable_caching()  # of all first: compiling one compiles those that it calls
    for function, signature in _declared:
        with suppress(OSError):  # it is compiled, but not saved
            # Without the result's type, as compiled functions call it: both find the same code.
            function.compile(normalize_signature(signature)[0])
        function.disable_compile()  # for other types, for which each call would wait
    config.CACHE_LOCATOR_CLASSES = others
    _declared.clear()


def _folder_name() -> str:
    """By what the code depends on: all sources, since a function may call those of other files."""
    settings = config.CPU_NAME, config.CPU_FEATURES, config.OPT, config.BOUNDSCHECK
    versions = numba.__version__, sys.implementation.cache_tag, llvm.get_process_triple()
    digest = hashlib.sha256(repr((settings, versions, sorted(_constants))).encode())
    for source in sorted(_sources):
        digest.update(Path(source).read_bytes())
    return f"{config.CPU_NAME}-{digest.hexdigest()[:16]}"


def main() -> None:
    """Compiles for all levels, into the installation, for all users."""
    os.umask(0o022)
    os.environ |= {"NUMBA_CACHE_DIR": str(INSTALLED), "NUMBA_CPU_FEATURES": ""}
    compile_once = importlib.import_module("model.compiling").compile_here  # not __main__'s
    for level in LEVELS:
        os.environ["NUMBA_CPU_NAME"] = level
        process = multiprocessing.get_context("spawn").Process(target=compile_once)
        process.start()
        process.join()
        if process.exitcode:
            sys.exit(process.exitcode)
    for folder in INSTALLED.iterdir():
        folder.chmod(0o755)


if __name__ == "__main__":
    main()
