"""What stands on the command line -> blocks of images, in order, without opening all of them.

The input is gone through twice: first it is counted and its files' sizes and times are summed up
in a digest, by which a continued run knows its input again; then it is cut into blocks while they
are scored. Neither holds more than the names in one folder of this machine.
"""

import glob
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from app.scoring.parquet_column import open_parquet
from app.scoring.readers import (
    GZIP,
    IDX_UINT8,
    Failure,
    Images,
    UnreadableError,
    failure_of,
    open_idx,
    open_numpy,
    open_picture,
    open_tar,
    open_zip,
)
from model.files import IMAGE_ENDINGS, walk_files

# A block is computed and written as a whole, and done anew if the run is killed before.
BLOCK_ROWS = 1024
BLOCK_BYTES = 16 * 2**20
PICTURE = "picture"
# What a folder is searched for, and how a file is read, by the end of its name.
_KINDS = {
    PICTURE: IMAGE_ENDINGS,
    "zip": (".zip",),
    "tar": (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
    "numpy": (".npz", ".npy"),
    "parquet": (".parquet",),
    "idx": ("idx3-ubyte", "idx3-ubyte.gz"),
}
_SIGNATURES = {b"PK\3\4": "zip", b"PAR1": "parquet", b"\x93NUM": "numpy"}
_REMOTE = "://"


class Piece(NamedTuple):
    """Consecutive images of one file."""

    path: str  # as the user named it
    kind: str  # one of `_KINDS`
    stamp: str = ""  # changes with its content
    start: int = 0  # number of the first image
    stop: int = 1  # number after the last
    image_bytes: int = 0  # about how large one is
    failure: Failure | None = None  # why the file cannot be read; it is then one image


@dataclass(frozen=True)
class Block:
    """Consecutive images of the input that are scored and written together."""

    number: int  # from 0
    first_row: int  # number of its first image in the whole input
    pieces: tuple[Piece, ...]

    @property
    def rows(self) -> int:
        """How many images."""
        return sum(piece.stop - piece.start for piece in self.pieces)


class Input:
    """The images that arguments name, in their order; those of a folder sorted by path.

    Args:
        arguments: files, folders, patterns; or URLs of these, as fsspec takes them.
        column: of Parquet files; None: the one that holds images.
    """

    def __init__(self, arguments: Sequence[str], column: str | None = None) -> None:
        self._arguments, self._column = arguments, column
        self._surveyed: dict[tuple[str, str], Piece] = {}

    def survey(self) -> tuple[int, str]:
        """How many images there are, and a digest of where they are, their sizes and times."""
        digest, images = hashlib.sha256(), 0
        for piece in self._files():
            images += piece.stop
            digest.update(repr(piece).encode())
        return images, digest.hexdigest()

    def blocks(self, most_rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """The same images, cut where rows or bytes are enough."""
        return _cut(self._files(), min(most_rows, BLOCK_ROWS))

    def _files(self) -> Iterator[Piece]:
        """Every file as one piece."""
        for argument in self._arguments:
            nothing = "there is nothing to score in this folder"
            if glob.has_magic(argument):
                nothing = "no file matches this pattern"
            failure: Failure | None = Failure("unreadable_file", nothing)
            try:
                for path in _find(argument):
                    yield self._survey_file(path)
                    failure = None
            except (UnreadableError, OSError) as error:
                failure = failure_of(error)
            if failure:
                yield Piece(argument, PICTURE, failure=failure)

    def _survey_file(self, path: str) -> Piece:
        piece = Piece(path, PICTURE)
        try:
            size, stamp = _look_at(path)
            if (path, stamp) in self._surveyed:
                return self._surveyed[path, stamp]
            piece = Piece(path, _kind_of(path), stamp, image_bytes=size)
            if piece.kind == PICTURE:
                return piece
            with open_images(piece, self._column) as images:
                count = images.count()
            if count == 0:
                raise UnreadableError("unreadable_file", "there is no image in this file")
            piece = piece._replace(stop=count, image_bytes=size // count)
        except (UnreadableError, OSError) as error:
            piece = piece._replace(failure=failure_of(error))
        self._surveyed[path, piece.stamp] = piece
        return piece


@contextmanager
def open_images(piece: Piece, column: str | None) -> Iterator[Images]:
    """The images of the file of a piece.

    Raises:
        UnreadableError: it is damaged, or not what it seems to be.
        OSError: it cannot be read.
    """
    openers = {"zip": open_zip, "tar": open_tar, "idx": open_idx, "numpy": open_numpy}
    with _open_file(piece.path) as file:
        if piece.kind == "parquet":
            yield open_parquet(file, piece.path, column)
        else:
            yield openers.get(piece.kind, open_picture)(file, piece.path)


def _open_file(path: str) -> IO[bytes]:
    if _REMOTE in path:
        system, name = _file_system(path)
        return cast("IO[bytes]", system.open(name, "rb"))
    return Path(path).open("rb")


def _find(argument: str) -> Iterator[str]:
    """The files that an argument names."""
    if _REMOTE in argument:
        system, name = _file_system(argument)
        for each in sorted(system.glob(name)) if glob.has_magic(name) else [name]:
            below = sorted(system.find(each)) if system.isdir(each) else None
            for path in filter(_kind_by_name, below) if below is not None else [each]:
                yield system.unstrip_protocol(path)
        return
    is_pattern = glob.has_magic(argument) and not Path(argument).exists()
    # Not of pathlib, which would change the user's form.
    for each in sorted(glob.glob(argument, recursive=True)) if is_pattern else [argument]:  # noqa: PTH207
        is_folder = Path(each).is_dir()
        yield from walk_files(each, lambda name: bool(_kind_by_name(name))) if is_folder else [each]


def _look_at(path: str) -> tuple[int, str]:
    """A file's size and stamp."""
    if _REMOTE in path:
        system, name = _file_system(path)
        return system.info(name)["size"], str(system.ukey(name))
    status = Path(path).stat()
    return status.st_size, f"{status.st_size} {status.st_mtime_ns}"


def _file_system(url: str) -> tuple[Any, str]:
    """Of a URL, and the name there."""
    try:
        import fsspec  # type: ignore[import-untyped]

        return cast("tuple[Any, str]", fsspec.url_to_fs(url))
    except (ImportError, ValueError) as error:  # a package is missing, or a protocol unknown
        raise UnreadableError("unreadable_file", f"it cannot be read: {error}") from error


def _kind_by_name(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, endings in _KINDS.items() if lower.endswith(endings)), None)


def _kind_of(path: str) -> str:
    """By the end of its name, or else by its first bytes."""
    if kind := _kind_by_name(path):
        return kind
    with _open_file(path) as file:
        head = file.read(4)
        kind = _SIGNATURES.get(head, PICTURE)
        if head[:2] == GZIP:
            kind = "tar"
            file.seek(0)
            with suppress(OSError, EOFError, zlib.error):
                head = gzip.GzipFile(fileobj=file).read(3)
    return "idx" if head[:3] == IDX_UINT8 else kind


def _cut(pieces: Iterable[Piece], most_rows: int) -> Iterator[Block]:
    number = first_row = rows = size = 0
    gathered: list[Piece] = []
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            room = most_rows - rows
            if piece.image_bytes:
                room = min(room, (BLOCK_BYTES - size) // piece.image_bytes)
            if room < 1 and gathered:
                yield Block(number, first_row, tuple(gathered))
                number, first_row, rows, size, gathered = number + 1, first_row + rows, 0, 0, []
                continue
            taken = min(max(room, 1), piece.stop - start)
            gathered.append(piece._replace(start=start, stop=start + taken))
            start, rows, size = start + taken, rows + taken, size + taken * piece.image_bytes
    if gathered:
        yield Block(number, first_row, tuple(gathered))
