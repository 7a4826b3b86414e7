"""Zip and tar archives of image files, member by member."""

import itertools
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from lzma import LZMAError
from pathlib import PurePosixPath
from typing import IO

from app.scoring.folders import is_image_name
from app.scoring.items import Failure, Image, Item, UnreadableError
from app.scoring.limits import LARGEST_FILE_BYTES, too_large

# What the decompressors raise on damaged bytes, each its own.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    LZMAError,
    EOFError,
    OSError,
    NotImplementedError,  # a compression method that Python does not have
    RuntimeError,  # an encrypted member
    ValueError,
)
_DAMAGED_MEMBER = Failure(
    "corrupt_member", "this member of the archive is damaged; pack the archive again"
)
_ENCRYPTED_MEMBER = Failure(
    "encrypted_member", "this member of the archive is encrypted; unpack the archive first"
)
_DAMAGED_REST = "the archive is damaged, and what follows in it is lost; pack it again"
_ENCRYPTED = 0x1


_Members = Generator[tuple[tarfile.TarFile, tarfile.TarInfo], None, None]


class ZipReader:
    """The images of a zip archive, in the order of its directory."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise UnreadableError(
                "corrupt_archive", "this zip archive is damaged; pack it again"
            ) from error
        self._members = [
            member for member in self._archive.infolist() if _is_wanted(member.filename)
        ]
        _require_images(self.count)

    @property
    def count(self) -> int:
        """How many members are images."""
        return len(self._members)

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """See `Reader.read`."""
        for index in range(start, stop):
            yield Item(self.name(index), self._read(self._members[index]))

    def _read(self, member: zipfile.ZipInfo) -> Image | Failure:
        if member.flag_bits & _ENCRYPTED:
            return _ENCRYPTED_MEMBER
        try:
            with self._archive.open(member) as file:
                return _read_bounded(file)
        except _DAMAGE:
            return _DAMAGED_MEMBER

    def name(self, index: int) -> str:
        """The archive and its member."""
        return f"{self._path}:{self._members[index].filename}"

    def close(self) -> None:
        """Closes the file."""
        self._archive.close()


class TarReader:
    """The images of a tar archive, compressed or not, in its order.

    A tar has no directory: counting goes through it once. Where its structure is damaged, the rest
    of it counts as one image that cannot be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._members = self._walk()
        self._next = 0
        self._count: int | None = None

    @property
    def count(self) -> int:
        """How many members are images, and one more if the archive is damaged behind them."""
        if self._count is None:
            found = 0
            try:
                for _ in self._walk():
                    found += 1
            except UnreadableError:
                found += 1
            self._count = found
            _require_images(found)
        return self._count

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """See `Reader.read`."""
        if start < self._next:
            self._members.close()
            self._members, self._next = self._walk(), 0
        wanted = itertools.islice(self._members, start - self._next, stop - self._next)
        self._next = stop
        for archive, member in wanted:
            yield Item(f"{self._path}:{member.name}", self._read(archive, member))

    def _read(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Image | Failure:
        try:
            file = archive.extractfile(member)
            assert file is not None  # it is a regular file
            with file:
                content = _read_bounded(file)
        except _DAMAGE:
            return _DAMAGED_MEMBER
        if isinstance(content, bytes) and len(content) < member.size:
            return _DAMAGED_MEMBER
        return content

    def _walk(self) -> _Members:
        try:
            with tarfile.open(self._path) as archive:
                while (member := archive.next()) is not None:
                    # It would remember every member it has seen.
                    archive.members.clear()  # type: ignore[attr-defined]
                    if member.isfile() and _is_wanted(member.name):
                        yield archive, member
                _require_end(archive)
        except _DAMAGE as error:
            raise UnreadableError("corrupt_archive", _DAMAGED_REST) from error

    def name(self, index: int) -> str:
        """The archive: what its members are called cannot be read."""
        return self._path

    def close(self) -> None:
        """Closes the file."""
        self._members.close()


def _require_end(archive: tarfile.TarFile) -> None:
    """`tarfile` takes a damaged header for the end; the end of an archive is empty."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("a header is damaged")


def _is_wanted(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return is_image_name(name) and not hidden


def _require_images(count: int) -> None:
    if count == 0:
        raise UnreadableError("unreadable_file", "there is no image in this archive")


def _read_bounded(file: IO[bytes]) -> Image | Failure:
    content = file.read(LARGEST_FILE_BYTES + 1)
    return content if len(content) <= LARGEST_FILE_BYTES else too_large()
