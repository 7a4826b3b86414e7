"""The default checkpoint's path, bounded reading and atomic writing; imports no torch."""

import errno
import os
import stat
import tempfile
from pathlib import Path

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "mnist.safetensors"


# Opening a named pipe would wait for who writes to it; there is no such flag on Windows.
_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Reads a file, unless that would wait, not end, or fill the memory.

    Raises:
        OSError: it cannot be read, is larger, or is a pipe, a device or a folder.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is a pipe or a device, not a regular file")
        if status.st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it has more than {most_bytes:,} bytes")
        return file.read(status.st_size)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a temporary file next to `path`, then renames it: a crash leaves the old file.

    Missing folders are created. The file is readable by everyone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
