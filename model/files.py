"""The default checkpoint's path, and atomic writing; imports no torch."""

import os
import tempfile
from pathlib import Path

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "mnist.safetensors"


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
