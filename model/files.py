"""Files: the default checkpoint's, bounded reading, atomic writing, folders of images, names."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
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


# A file that is named itself may end as it likes.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(IMAGE_ENDINGS)


def walk_files(folder: str, is_wanted: Callable[[str], object]) -> Iterator[str]:
    """The wanted files of a folder and of all below it, sorted by path, without hidden ones.

    Holds the names of one folder, and of those above it, at a time.

    Args:
        folder: where to look.
        is_wanted: decides by a file's name.

    Raises:
        OSError: a folder cannot be read.
    """
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in sorted(visible, key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            yield from walk_files(entry.path, is_wanted)
        elif is_wanted(entry.name) and entry.is_file():
            yield str(Path(entry.path))  # without a leading ./


def printable(name: str) -> str:
    """The name without what would confuse a terminal or a line: control characters, odd bytes."""
    if name.isprintable():
        return name
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
