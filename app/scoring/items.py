"""What is scored: images with a name each, or why there is none."""

import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from typing import IO, NamedTuple

import pyarrow as pa

from model.arrays import Pixels

# More than 50 million pixels in four channels need.
LARGEST_FILE_BYTES = 256 * 2**20
# What libraries raise on damaged bytes. RuntimeError: an encrypted member of an archive, and a
# compression method that Python does not have.
DAMAGE = (
    *(EOFError, OSError, RuntimeError, ValueError, LZMAError, zlib.error),
    *(pa.ArrowException, tarfile.TarError, zipfile.BadZipFile),
)


class Failure(NamedTuple):
    """Why an image has no answer."""

    code: str  # for programs: the API's own codes, or one of reading files
    message: str  # for people: what to do


# An image file's bytes, brightness 0 to 255, (H, W), or why there is no image.
Content = bytes | Pixels | Failure


class Item(NamedTuple):
    """One image of the input."""

    source: str  # a path, `archive:member`, or `file[index]`
    image: Content


class UnreadableError(Exception):
    """A file, or what follows in it, cannot be read."""

    def __init__(self, code: str, message: str) -> None:
        self.failure = Failure(code, message)

    @classmethod
    @contextmanager
    def on_damage(cls, code: str, message: str) -> Iterator[None]:
        """Raised in place of what a library raises on damaged bytes."""
        try:
            yield
        except DAMAGE as error:
            raise cls(code, message) from error


def failure_of(error: UnreadableError | OSError) -> Failure:
    """Why the images of a file have no answers."""
    if isinstance(error, UnreadableError):
        return error.failure
    return Failure("unreadable_file", f"it cannot be read: {error.strerror or error}")


def read_image(file: IO[bytes]) -> bytes | Failure:
    """The content of an image file, unless that is beyond the limit."""
    content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        size = f"{LARGEST_FILE_BYTES >> 20} MB"
        return Failure("too_large", f"the file has more than {size}; scale it down")
    return content


class Reader(ABC):
    """The images of one file, read from the front to the back in bounded memory.

    Attributes:
        count: how many images there are, those that cannot be read included.
    """

    count: int

    def __init__(self, path: str) -> None:
        self._path = path

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[Item]:
        """The images from number `start` up to, without it, `stop`.

        Raises:
            UnreadableError: what follows cannot be read.
        """

    def name(self, index: int) -> str:
        """The source of an image, as far as it is known without reading the image."""
        return f"{self._path}[{index}]"

    def close(self) -> None:  # noqa: B027  nothing stays open by default
        """Closes the file."""


class WorkerDiedError(Exception):
    """A process ended by itself; the text is one line for the user."""
