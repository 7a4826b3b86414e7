"""The image files of a folder, and names that can be printed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# A file that is named itself may end as it likes.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as an image's does."""
    return name.lower().endswith(IMAGE_ENDINGS)


def walk_files(folder: str, is_wanted: Callable[[str], bool]) -> Iterator[str]:
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
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
