"""Zip and tar archives of image files, member by member."""

import itertools
import tarfile
import zipfile
from collections.abc import Callable, Generator, Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import IO, Any

from app.scoring.folders import is_image_name
from app.scoring.items import DAMAGE, Content, Failure, Item, Reader, UnreadableError, read_image

_DAMAGED_MEMBER = Failure(
    "corrupt_member", "this member of the archive is damaged; pack the archive again"
)
_ENCRYPTED_MEMBER = Failure(
    "encrypted_member", "this member of the archive is encrypted; unpack the archive first"
)
_DAMAGED_REST = "the archive is damaged, and what follows in it is lost; pack it again"
_ENCRYPTED = 0x1


class ZipReader(Reader):
    """The images of a zip archive, in the order of its directory."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        with UnreadableError.on_damage(
            "corrupt_archive", "this zip archive is damaged; pack it again"
        ):
            self._archive = zipfile.ZipFile(path)
        self._members = [each for each in self._archive.infolist() if _is_wanted(each.filename)]
        self.count = _require_images(len(self._members))

    def read(self, start: int, stop: int) -> Iterator[Item]:
        for index in range(start, stop):
            member = self._members[index]
            content: Content = _ENCRYPTED_MEMBER
            if not member.flag_bits & _ENCRYPTED:
                content = _read_member(self._archive.open, member)
            yield Item(self.name(index), content)

    def name(self, index: int) -> str:
        return f"{self._path}:{self._members[index].filename}"

    def close(self) -> None:
        self._archive.close()


class TarReader(Reader):
    """The images of a tar archive, compressed or not, in its order.

    A tar has no directory: counting goes through it once. Where its structure is damaged, the rest
    of it counts as one image that cannot be read.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._members = self._walk()
        self._next = 0

    @cached_property
    def count(self) -> int:  # type: ignore[override]
        """How many members are images, and one more if the archive is damaged behind them."""
        found = 0
        try:
            for _ in self._walk():
                found += 1
        except UnreadableError:
            found += 1
        return _require_images(found)

    def read(self, start: int, stop: int) -> Iterator[Item]:
        if start < self._next:
            self._members.close()
            self._members, self._next = self._walk(), 0
        for archive, member in itertools.islice(self._members, stop - self._next):
            self._next += 1
            if self._next > start:
                image = _read_member(archive.extractfile, member, member.size)
                yield Item(f"{self._path}:{member.name}", image)

    def _walk(self) -> Generator[tuple[tarfile.TarFile, tarfile.TarInfo], None, None]:
        with (
            UnreadableError.on_damage("corrupt_archive", _DAMAGED_REST),
            tarfile.open(self._path) as archive,
        ):
            while (member := archive.next()) is not None:
                # It would remember every member it has seen.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.isfile() and _is_wanted(member.name):
                    yield archive, member
            # `tarfile` takes a damaged header for the end; the end of an archive is empty.
            assert archive.fileobj is not None
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("a header is damaged")

    def name(self, index: int) -> str:
        """The archive: what its members are called cannot be read."""
        return self._path

    def close(self) -> None:
        self._members.close()


def _is_wanted(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return is_image_name(name) and not hidden


def _require_images(count: int) -> int:
    if count == 0:
        raise UnreadableError("unreadable_file", "there is no image in this archive")
    return count


def _read_member(
    open_member: Callable[[Any], IO[bytes] | None], member: Any, size: int = 0
) -> Content:
    try:
        file = open_member(member)
        assert file is not None  # it is a regular file
        with file:
            content = read_image(file)
    except DAMAGE:
        return _DAMAGED_MEMBER
    is_cut = isinstance(content, bytes) and len(content) < size
    return _DAMAGED_MEMBER if is_cut else content
