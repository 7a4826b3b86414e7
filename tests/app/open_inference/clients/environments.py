"""Clients that are no dependencies of the tests, each installed in a folder of its own.

The folders are kept in the user's cache, outside the repository. Whoever asks for one that cannot
be had skips, and says why.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.pages import command_for

KSERVE = ("kserve==0.21.0",)
# The last release whose program runs with Debian 12's C library: it came with tritonclient then.
PERF_ANALYZER = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12>=12.6,<13")
# Of how the pages measure, and instead of it. Not --request-count, with which it can wait for ever
# for a request that a thread of its own finished uncounted.
PERF_ANALYZER_MEASURES = "--measurement-interval 2000 --stability-percentage 50"
PERF_ANALYZER_MEASURES_SHORTLY = "--measurement-interval 300 --stability-percentage 999"
_DEBIAN_LIBRARY = "libb64-0d"
_LIBRARY = "libb64.so.0d"
_SECONDS = 600


def install_kserve() -> Path:
    """The Python of a virtual environment with KServe's client."""
    folder = _folder("kserve", KSERVE)
    python = folder / "bin" / "python"
    if not folder.exists():
        if not os.environ.get("CLIENTS"):
            pytest.skip(f"kserve brings 450 MB of packages: {command_for('KServe')}")
        building = _building(folder)
        _run(sys.executable, "-m", "venv", str(building))
        _run(str(building / "bin" / "python"), "-m", "pip", "install", "--quiet", *KSERVE)
        keep(building, folder)
    return python


def install_perf_analyzer() -> tuple[Path, dict[str, str]]:
    """NVIDIA's perf_analyzer, and the environment that it finds its libraries with."""
    folder = _folder("perf_analyzer", PERF_ANALYZER)
    if not folder.exists():
        if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
            pytest.skip("this perf_analyzer is a program for Linux on x86-64")
        building = _building(folder)
        # Only the program and the library that it is linked with, and not what the client needs.
        install = ("pip", "install", "--quiet", "--no-deps", "--target", str(building))
        _run(sys.executable, "-m", *install, *PERF_ANALYZER)
        if shutil.which("apt-get"):
            _run("apt-get", "download", "--quiet", _DEBIAN_LIBRARY, folder=building)
            (package,) = building.glob(f"{_DEBIAN_LIBRARY}*.deb")
            _run("dpkg", "--extract", str(package), str(building))
        keep(building, folder)
    libraries = {library.parent for library in folder.rglob("lib*.so.*")}
    program = folder / "bin" / "perf_analyzer"
    environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries))}
    done = subprocess.run([program, "--version"], env=environment, capture_output=True, text=True)
    if _LIBRARY in done.stderr:
        pytest.skip(f"perf_analyzer needs {_LIBRARY}: apt-get install {_DEBIAN_LIBRARY}")
    return program, environment


def _folder(name: str, requirements: Sequence[str]) -> Path:
    """Where an installation of exactly this is kept."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    identity = hashlib.sha256(repr((requirements, sys.version)).encode()).hexdigest()[:12]
    return cache / "dropserve-tests" / f"{name}-{identity}"


def _building(folder: Path) -> Path:
    """Where it is put together: what is cut short is never taken for the whole."""
    building = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    return building


def keep(building: Path, folder: Path) -> None:
    """Puts it in its place, unless another process that installed the same was first."""
    try:
        building.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(building)


def _run(*command: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{command[0]} failed: {error}")
    if done.returncode != 0:
        reason = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        pytest.skip(f"{' '.join(command[:4])} failed: {reason}")
