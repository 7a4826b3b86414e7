"""Folders of machine code: in the installation, for everybody, or in the user's cache.

Either may be read-only. A folder is named by all that its code depends on, so what is complete is
up to date. Code of another user's making is not loaded.
"""

import hashlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where processes that start together all compile
    fcntl = None  # type: ignore[assignment]

_MODEL = Path(__file__).parent
INSTALLED = _MODEL / "compiled"


def own_folder(chosen: str, name: str) -> Path | None:
    """Finds or makes a folder, which may still be read-only; None if there can be none.

    Args:
        chosen: where folders are; empty: in the user's cache.
        name: of the folder.
    """
    home = os.path.expanduser("~")  # noqa: PTH111 - Path's raises an error where there is none
    caches = Path(os.environ.get("XDG_CACHE_HOME", "")), Path(home, ".cache")
    cache = next(filter(Path.is_absolute, caches), Path(os.devnull))
    folder = Path(chosen or cache / "dropserve", name)
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):
        if sys.platform == "win32" or _is_trusted(folder.lstat()):
            return folder
    return None


def _is_trusted(found: os.stat_result) -> bool:
    """Whether only they can write to it who could change this program as well."""
    owners = 0, os.geteuid(), _MODEL.stat().st_uid
    others_write = found.st_mode & stat.S_IWOTH
    return stat.S_ISDIR(found.st_mode) and found.st_uid in owners and not others_write


def prepare(folder: Path) -> bool:
    """Empties a folder, since half of a file is not recognised; False if it is read-only."""
    if os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        for file in folder.glob("*.nb*"):
            file.unlink()
        return True
    return False


def complete(folder: Path, functions: int) -> bool:
    """Marks a folder as complete, if all functions are in it."""
    with suppress(OSError):
        if len(list(folder.glob("*.nbi"))) == functions:
            (folder / "complete").write_text(_digest(folder))
            return True
    return False


def is_complete(folder: Path | None) -> bool:
    """Whether all is in the folder, and undamaged."""
    with suppress(OSError):
        return folder is not None and (folder / "complete").read_text() == _digest(folder)
    return False


def _digest(folder: Path) -> str:
    files = sorted(folder.glob("*.nb[ci]"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Waits until no other process has the folder, if its file system has locks."""
    with ExitStack() as stack:
        if fcntl and folder:
            with suppress(OSError):
                fcntl.flock(stack.enter_context((folder / "lock").open("w")), fcntl.LOCK_EX)
        yield


class Locator:
    """Where Numba keeps a function. Its own locators need write access, even to read."""

    folder: Path | None = None

    @classmethod
    def from_function(cls, function: Callable[..., object], file: str) -> "Locator":
        return cls(function, file)

    def __init__(self, function: Callable[..., object], file: str) -> None:
        self._module = function.__module__
        self._py_file = file  # which a warning of Numba's names

    def get_cache_path(self) -> str:
        return str(self.folder)

    def ensure_cache_path(self) -> None:
        if is_complete(self.folder):
            raise OSError(f"{self.folder} is complete, and stays as it is")

    def get_source_stamp(self) -> str:
        return ""  # the folder's name has it

    def get_disambiguator(self) -> str:
        return self._module
