"""What is scored: images with a name each, or why there is none."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

# Under it a part of the table lists its failures in its metadata, as JSON.
FAILURES_KEY = b"failures"

# An image file's bytes, or brightness 0 to 255, (H, W).
Image = bytes | NDArray[np.uint8]


class Failure(NamedTuple):
    """Why an image has no answer."""

    code: str  # for programs: the API's own codes, or one of reading files
    message: str  # for people: what to do


class Item(NamedTuple):
    """One image of the input."""

    source: str  # a path, `archive:member`, or `file[index]`
    image: Image | Failure


class UnreadableError(Exception):
    """A file, or what follows in it, cannot be read."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)  # both, so that it comes whole out of another process
        self.failure = Failure(code, message)


class Reader(Protocol):
    """The images of one file, read from the front to the back in bounded memory."""

    @property
    def count(self) -> int:
        """How many images there are, those that cannot be read included."""

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """The images from number `start` up to, without it, `stop`.

        Raises:
            UnreadableError: what follows cannot be read.
        """

    def name(self, index: int) -> str:
        """The source of an image that cannot be read."""

    def close(self) -> None:
        """Closes the file."""
