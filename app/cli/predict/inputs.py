"""Arguments of the command line -> images: files, folders, patterns, standard input."""

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from app.client.errors import ImageError
from app.errors import UsageError
from model.files import is_image_name, printable, walk_files

STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Input:
    """One image.

    Attributes:
        name: as the user knows it, printable.
        image: a path, the file's bytes, the numbers of another network's input, or why there is
            nothing.
    """

    name: str
    image: str | bytes | Mapping[str, Any] | ImageError


def find_inputs(arguments: Sequence[str], stdin: BinaryIO) -> list[Input]:
    """The images that the arguments name, in their order; those of a folder sorted by path.

    Folders are searched with everything below them, except hidden files and folders.

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
            found.append(_unreadable(argument, f"it cannot be read: {error.strerror}"))
    return found


def _expand(argument: str, stdin: BinaryIO) -> Iterator[Input]:
    path = Path(argument)
    if argument == STANDARD_INPUT:
        yield Input(STANDARD_INPUT, stdin.read())
    elif path.exists():
        yield from _files(argument)
    elif not glob.has_magic(argument):
        yield _unreadable(argument, "there is no such file")
    else:
        # Quoted patterns, and shells that do not expand them, as on Windows.
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  keeps the user's form
        for match in matches:
            yield from _files(match)
        if not matches:
            yield _unreadable(argument, "no file matches this pattern")


def _files(path: str) -> Iterator[Input]:
    files = list(walk_files(path, is_image_name)) if Path(path).is_dir() else [path]
    for file in files:
        yield Input(printable(file), _numbers(file) or file)
    if not files:
        yield _unreadable(path, "there is no image in this folder")


def _numbers(path: str) -> Mapping[str, Any] | ImageError | None:
    """The input in a .json or .npy file; None: it is neither."""
    ending = Path(path).suffix.lower()
    try:
        if ending == ".json":
            return {"input": json.loads(Path(path).read_bytes())}
        if ending == ".npy":
            import numpy as np

            return {"input": np.load(path, allow_pickle=False).tolist()}
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"it is no {ending} file of numbers"
        return ImageError("unreadable_file", f"it cannot be read: {reason}")
    return None


def _unreadable(argument: str, message: str) -> Input:
    return Input(printable(argument), ImageError("unreadable_file", message))
