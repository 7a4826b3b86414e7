"""What stands on the command line -> blocks of images, in order, without opening all of them.

The input is gone through twice: first it is counted and its files' sizes and times are summed up
in a digest, by which a continued run knows its input again; then it is cut into blocks while they
are scored. Neither holds more than the names in one folder of this machine.
"""

import glob
import gzip
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from app.scoring import readers
from app.scoring.readers import Failure, UnreadableError, failure_of
from model.files import IMAGE_ENDINGS, walk_files
from model.layered import InputSpec

# A block is done anew if the run is killed before all of it is written.
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
_EMPTY_FOLDER = "there is nothing to score in this folder"


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

    first_row: int  # number of its first image in the whole input
    rows: int  # how many images
    pieces: tuple[Piece, ...]


class Input:
    """The images that arguments name, in their order; those of a folder sorted by path.

    Args:
        arguments: files, folders, patterns; or URLs of these, as fsspec takes them.
        column: of Parquet files; None: the one that holds images.
        spec: what the network takes; None: pictures of digits.
    """

    def __init__(
        self, arguments: Sequence[str], column: str | None = None, spec: InputSpec | None = None
    ) -> None:
        self._arguments, self._wanted = arguments, (column, spec)
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
        first_row = rows = size = 0
        pieces: list[Piece] = []
        for piece in self._files():
            start = piece.start
            while start < piece.stop:
                room = min(most_rows, BLOCK_ROWS) - rows
                if piece.image_bytes:
                    room = min(room, (BLOCK_BYTES - size) // piece.image_bytes)
                if room < 1 and pieces:
                    yield Block(first_row, rows, tuple(pieces))
                    first_row, rows, size, pieces = first_row + rows, 0, 0, []
                    continue
                stop = min(start + max(room, 1), piece.stop)
                pieces.append(piece._replace(start=start, stop=stop))
                rows, size = rows + stop - start, size + (stop - start) * piece.image_bytes
                start = stop
        if pieces:
            yield Block(first_row, rows, tuple(pieces))

    def _files(self) -> Iterator[Piece]:
        """Every file as one piece."""
        for argument in self._arguments:
            what = "no file matches this pattern" if glob.has_magic(argument) else _EMPTY_FOLDER
            failure: Failure | None = Failure("unreadable_file", what)
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
            piece = Piece(path, _kind_by_name(path) or _kind_by_content(path), stamp, 0, 1, size)
            if piece.kind == PICTURE:
                return piece
            with open_file(path) as file:
                count = readers.open_images(file, path, piece.kind, *self._wanted).number()
            if count == 0:
                raise UnreadableError("unreadable_file", "there is no image in this file")
            piece = piece._replace(stop=count, image_bytes=size // count)
        except (UnreadableError, OSError) as error:
            piece = piece._replace(failure=failure_of(error))
        self._surveyed[path, piece.stamp] = piece
        return piece


def _find(argument: str) -> Iterator[str]:
    """The files that an argument names."""
    system, name = _file_system(argument)
    if system is None:
        is_pattern = glob.has_magic(name) and not Path(name).exists()
        # Not of pathlib, which would change the user's form.
        for each in sorted(glob.glob(name, recursive=True)) if is_pattern else [name]:  # noqa: PTH207
            is_folder = Path(each).is_dir()
            yield from walk_files(each, _kind_by_name) if is_folder else [each]
        return
    for each in sorted(system.glob(name)) if glob.has_magic(name) else [name]:
        below = filter(_kind_by_name, sorted(system.find(each)) if system.isdir(each) else [])
        yield from map(system.unstrip_protocol, below if system.isdir(each) else [each])


def _look_at(path: str) -> tuple[int, str]:
    """A file's size and stamp."""
    system, name = _file_system(path)
    if system is not None:
        return system.info(name)["size"], str(system.ukey(name))
    status = Path(path).stat()
    return status.st_size, f"{status.st_size} {status.st_mtime_ns}"


def open_file(path: str) -> IO[bytes]:
    """Opens a file by its path or URL."""
    system, name = _file_system(path)
    return Path(path).open("rb") if system is None else cast("IO[bytes]", system.open(name))


def _file_system(path: str) -> tuple[Any, str]:
    """Of a URL, None of a path; and the name there."""
    if "://" not in path:
        return None, path
    try:
        import fsspec  # type: ignore[import-untyped]

        return cast("tuple[Any, str]", fsspec.url_to_fs(path))
    except (ImportError, ValueError) as error:  # a package is missing, or a protocol unknown
        raise UnreadableError("unreadable_file", f"it cannot be read: {error}") from error


def _kind_by_name(name: str) -> str | None:
    lower = name.lower()
    return next((kind for kind, endings in _KINDS.items() if lower.endswith(endings)), None)


def _kind_by_content(path: str) -> str:
    with open_file(path) as file:
        head = file.read(4)
        kind = _SIGNATURES.get(head, PICTURE)
        if head[:2] == readers.GZIP:
            kind = "tar"
            file.seek(0)
            with suppress(*readers.DAMAGE):
                head = gzip.GzipFile(fileobj=file).read(3)
    return "idx" if head[:3] == readers.IDX_UINT8 else kind
