"""Where files are, and writing them whole or not at all; imports no torch."""

import os
import tempfile
from pathlib import Path

DEFAULT_CHECKPOINT = Path(__file__).parent / "checkpoints" / "mnist.safetensors"


def write_atomically(path: Path, content: bytes) -> None:
    """Writes through a temporary file beside `path` and a rename; a crash leaves the old file."""
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
