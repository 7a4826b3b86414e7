"""What stands on the command line -> chunks of images, in order, without opening all of them.

The input is gone through twice: first it is counted and its files' sizes and times are summed up
in a digest, by which a continued run knows its input again; then it is cut into chunks while they
are scored. Neither holds more than the names in one folder.
"""

import glob
import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from app.scoring.archives import TarReader, ZipReader
from app.scoring.arrays import GZIP, IDX_UINT8, IdxReader, NumpyReader
from app.scoring.folders import IMAGE_ENDINGS, walk_files
from app.scoring.items import Failure, Item, Reader, UnreadableError, failure_of, read_image
from app.scoring.parquet_column import ParquetReader

# A chunk is computed and written as a whole, and done anew if the run is killed before.
CHUNK_ROWS = 1024
CHUNK_BYTES = 16 * 2**20
_PICTURE = "picture"
# What a folder is searched for, and how a file is read, by the end of its name.
_KINDS = {
    _PICTURE: IMAGE_ENDINGS,
    "zip": (".zip",),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    "numpy": (".npz", ".npy"),
    "parquet": (".parquet",),
    "idx": ("idx3-ubyte", "idx3-ubyte.gz"),
}
_SIGNATURES = {b"PK\3\4": "zip", b"PAR1": "parquet", b"\x93NUM": "numpy"}


class Piece(NamedTuple):
    """Consecutive images of one file.

    Attributes:
        path: the file, as the user named it.
        kind: how it is read.
        start: number of the first image.
        stop: number after the last.
        image_bytes: about how large one is.
        failure: why the file cannot be read; it is then one image.
    """

    path: str
    kind: str
    start: int = 0
    stop: int = 1
    image_bytes: int = 0
    failure: Failure | None = None


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of the input that are scored and written together.

    Attributes:
        number: from 0.
        first_row: number of its first image in the whole input.
        pieces: where they are.
    """

    number: int
    first_row: int
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """How many images."""
        return sum(piece.stop - piece.start for piece in self.pieces)


class Input:
    """The images that arguments name, in their order; those of a folder sorted by path.

    Args:
        arguments: files, folders, patterns.
        column: of Parquet files; None: the one that holds images.
    """

    def __init__(self, arguments: Sequence[str], column: str | None = None) -> None:
        self._arguments = arguments
        self._column = column
        self._surveyed: dict[str, Piece] = {}

    def survey(self) -> tuple[int, str]:
        """How many images there are, and a digest of where they are, their sizes and times."""
        digest = hashlib.sha256()
        images = 0
        for piece in self._files():
            images += piece.stop
            try:
                status = Path(piece.path).stat()
                seen = (status.st_size, status.st_mtime_ns)
            except OSError:
                seen = (0, 0)
            digest.update(repr((piece.path, piece.kind, piece.stop, *seen)).encode())
        return images, digest.hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """The same images, cut where rows or bytes are enough."""
        return _cut(self._files())

    def _files(self) -> Iterator[Piece]:
        """Every file as one piece."""
        for argument in self._arguments:
            try:
                yield from self._expand(argument)
            except OSError as error:
                yield Piece(argument, _PICTURE, failure=failure_of(error))

    def _expand(self, argument: str) -> Iterator[Piece]:
        path = Path(argument)
        problem = "there is no such file"
        if path.is_dir():
            problem = "there is nothing to score in this folder"
            for file in walk_files(argument, lambda name: _kind_by_name(name) is not None):
                problem = ""
                yield self._survey_file(file)
        elif path.exists():
            problem = ""
            yield self._survey_file(argument)
        elif glob.has_magic(argument):
            problem = "no file matches this pattern"
            for match in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207  keeps the user's form
                problem = ""
                yield from self._expand(match)
        if problem:
            yield Piece(argument, _PICTURE, failure=Failure("unreadable_file", problem))

    def _survey_file(self, path: str) -> Piece:
        kind = _kind_by_name(path) or _kind_by_content(path)
        if kind == _PICTURE:
            return Piece(path, kind, image_bytes=Path(path).stat().st_size)
        if path not in self._surveyed:
            try:
                with closing(open_reader(path, kind, self._column)) as reader:
                    count = reader.count
                size = Path(path).stat().st_size
                self._surveyed[path] = Piece(path, kind, 0, count, size // count)
            except (UnreadableError, OSError) as error:
                self._surveyed[path] = Piece(path, kind, failure=failure_of(error))
        return self._surveyed[path]


class PictureReader(Reader):
    """An image file: one image."""

    count = 1

    def read(self, start: int, stop: int) -> Iterator[Item]:
        for _ in range(start, stop):
            with Path(self._path).open("rb") as file:
                yield Item(self._path, read_image(file))

    def name(self, index: int) -> str:
        return self._path


def open_reader(path: str, kind: str, column: str | None) -> Reader:
    """Opens a file.

    Args:
        path: of the file.
        kind: see `Piece`.
        column: of a Parquet file; None: the one that holds images.

    Raises:
        UnreadableError: it cannot be read as what it seems to be.
        OSError: it cannot be read.
    """
    if kind == "parquet":
        return ParquetReader(path, column)
    readers: Mapping[str, Callable[[str], Reader]]
    readers = {"zip": ZipReader, "tar": TarReader, "idx": IdxReader, "numpy": NumpyReader}
    return readers.get(kind, PictureReader)(path)


def _cut(pieces: Iterable[Piece]) -> Iterator[Chunk]:
    number = first_row = rows = size = 0
    gathered: list[Piece] = []
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            room = CHUNK_ROWS - rows
            if piece.image_bytes:
                room = min(room, (CHUNK_BYTES - size) // piece.image_bytes)
            if room < 1 and gathered:
                yield Chunk(number, first_row, tuple(gathered))
                number, first_row = number + 1, first_row + rows
                rows = size = 0
                gathered = []
                continue
            taken = min(max(room, 1), piece.stop - start)
            gathered.append(piece._replace(start=start, stop=start + taken))
            start += taken
            rows += taken
            size += taken * piece.image_bytes
    if gathered:
        yield Chunk(number, first_row, tuple(gathered))


def _kind_by_name(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, endings in _KINDS.items() if lower.endswith(endings)), None)


def _kind_by_content(path: str) -> str:
    with Path(path).open("rb") as file:
        head = file.read(4)
    kind = _SIGNATURES.get(head, _PICTURE)
    if head[:2] == GZIP:
        kind = "tar"
        with suppress(OSError, EOFError, zlib.error), gzip.open(path) as unpacked:
            head = unpacked.read(3)
    return "idx" if head[:3] == IDX_UINT8 else kind
