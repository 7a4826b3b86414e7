"""What stands on the command line -> images: files, folders, patterns, standard input."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.client.errors import ImageError
from app.errors import UsageError
from app.scoring.folders import is_image_name, printable, walk_files

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Input:
    """One image to be answered.

    Attributes:
        name: as the user knows it, printable.
        image: a path, the bytes themselves, or why there are none.
    """

    name: str
    image: str | bytes | ImageError


def find_inputs(arguments: Sequence[str], stdin: BinaryIO) -> list[Input]:
    """The images that the arguments name, in their order; those of a folder sorted by path.

    Folders are searched with everything below them, but for hidden files and folders.

    Raises:
        UsageError: standard input is named twice.
    """
    if arguments.count(STANDARD_INPUT) > 1:
        raise UsageError("- can be given once: standard input is one image")
    found: list[Input] = []
    for argument in arguments:
        try:
            found += _expand(argument, stdin)
        except OSError as error:
            found.append(_missing(argument, f"it cannot be read: {error.strerror}"))
    return found


def _expand(argument: str, stdin: BinaryIO) -> Iterator[Input]:
    path = Path(argument)
    if argument == STANDARD_INPUT:
        yield Input(STANDARD_INPUT, stdin.read())
    elif path.is_dir():
        yield from _search(argument)
    elif not path.exists() and glob.has_magic(argument):
        # Where no shell has done so: on Windows, or in quotes.
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  keeps the user's form
        if not matches:
            yield _missing(argument, "no file matches this pattern")
        for match in matches:
            if Path(match).is_dir():
                yield from _search(match)
            else:
                yield Input(printable(match), match)
    elif not path.exists():
        yield _missing(argument, "there is no such file")
    else:
        yield Input(printable(argument), argument)


def _search(folder: str) -> Iterator[Input]:
    found = list(walk_files(folder, is_image_name))
    if not found:
        yield _missing(folder, "there is no image in this folder")
    for path in found:
        yield Input(printable(path), path)


def _missing(argument: str, message: str) -> Input:
    return Input(printable(argument), ImageError("unreadable_file", message))
