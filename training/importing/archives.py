"""Bounded reading: files, the members of zip archives, and JSON."""

import errno
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

from model.files import read_bounded
from training.errors import TrainingError

# 64 million weights.
MOST_BYTES = 256 * 2**20
# Parsed JSON takes up to twenty times as much memory as its text.
MOST_JSON_BYTES = 2 * 2**20
# Of a zip archive's list of members.
_MOST_DIRECTORY_BYTES = 2**20


def read_file(path: Path) -> bytes:
    """The bytes of a regular file of at most `MOST_BYTES`."""
    try:
        return read_bounded(path, MOST_BYTES)
    except OSError as error:
        raise TrainingError(f"cannot read {path}: {error.strerror}") from error


def parse_json(text: str | bytes, name: str) -> Any:
    """The document; `name` is for the refusal of what is none."""
    if len(text) > MOST_JSON_BYTES:
        raise TrainingError(f"{name} has more than {MOST_JSON_BYTES:,} bytes")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TrainingError(f"{name} is no JSON") from error


class _File(io.BytesIO):
    """A file in memory that is read in pieces of a limited size only.

    While an archive is opened, the largest piece is its list of members.
    """

    most_bytes = _MOST_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most_bytes:
            raise OSError(errno.EFBIG, "too much at once")
        return super().read(size)


class Archive:
    """The members of a zip archive that are stored as they are, which `.keras` and `.pt2` have.

    Nothing is extracted: members are found by their exact names, and read into memory. What is not
    compressed is no larger than the file.

    Raises:
        TrainingError: it is no such archive.
    """

    def __init__(self, content: bytes) -> None:
        file = _File(content)
        try:
            self._zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, struct.error, ValueError, RuntimeError, OSError) as error:
            raise TrainingError("it is no zip archive, or a damaged one") from error
        file.most_bytes = MOST_BYTES
        self.names = self._zip.namelist()
        if len(set(self.names)) < len(self.names):
            raise TrainingError("the zip archive has two members of one name")
        if min((member.header_offset for member in self._zip.infolist()), default=0) > 0:
            # A cut archive can end in an archive that was a member.
            raise TrainingError("it is no zip archive, or a damaged one")

    def read(self, name: str, most_bytes: int = MOST_BYTES) -> bytes:
        """The bytes of a member.

        Raises:
            TrainingError: there is none, or it is compressed, too large or damaged.
        """
        try:
            member = self._zip.getinfo(name)
        except KeyError:
            raise TrainingError(f"the archive has no {name}") from None
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise TrainingError(f"{name} is compressed, which the libraries' own files are not")
        if member.file_size > most_bytes:
            raise TrainingError(f"{name} has more than {most_bytes:,} bytes")
        try:
            return self._zip.read(member)
        except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError) as error:
            raise TrainingError(f"{name} is damaged") from error

    def read_json(self, name: str) -> Any:
        """The document in a member; see `read`."""
        return parse_json(self.read(name, MOST_JSON_BYTES), name)
