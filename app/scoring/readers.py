"""Files by path or URL, and the images in them: pictures, archives, arrays and columns."""

import bz2
import errno
import gzip
import lzma
import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy

from model.files import is_image_name, printable

_DECOMPRESSORS: Any = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# What libraries raise on damaged bytes, and of what is no longer there. RuntimeError: it is
# encrypted, or Python lacks its compression.
DAMAGE = (
    *(EOFError, LookupError, OSError, RuntimeError, ValueError, lzma.LZMAError, zlib.error),
    *(pa.ArrowException, tarfile.TarError, zipfile.BadZipFile),
)


class Failure(NamedTuple):
    """Why an image has no answer."""

    code: str  # for programs: the API's own codes, or one of reading files
    message: str  # for people: what to do


def failure_of(error: Exception, otherwise: Failure) -> Failure:
    """Why the images of a file have no answers; where the system said nothing, what is given."""
    if isinstance(error, FileNotFoundError):
        return Failure("unreadable_file", "there is no such file")
    if isinstance(error, OSError) and error.errno:
        return Failure("unreadable_file", f"it cannot be read: {error.strerror}")
    return otherwise


LARGEST_BYTES = 256 * 2**20  # more than 50 million pixels in four channels need
_TOO_LARGE = Failure("too_large", f"it has more than {LARGEST_BYTES >> 20} MB; scale it down")
_LOST = Failure("corrupt_file", "the file ends here or is damaged, and what follows in it is lost")
_LOST_MEMBER = Failure("corrupt_member", "it is damaged or encrypted; pack the archive again")
_LOST_GROUP = Failure("unreadable_column", "the row group is damaged; write the file again")
# Columns of images, looked for in this order; else the only column that can hold them.
_USUAL_NAMES = ("image", "img", "pixels", "bytes", "content")
_FILES = (pa.binary(), pa.large_binary())
_MISSING = Failure("missing_image", "the column has no image in this row")
_RAGGED = Failure("invalid_pixels", "a number of it is missing, or its rows differ in length")


class Piece(NamedTuple):
    """Consecutive images of one file: of an array, of a row group, or one picture."""

    path: str  # as the user named it
    kind: str = ""  # "member" of a zip archive, "column" of a Parquet file, else bytes of the file
    name: str = ""  # of a member of an archive; of a row group, its number
    form: str = ""  # of an array, NumPy's type and an image's shape; of a row group, the column
    place: int = 0  # the byte where the first image begins; the row where the row group does
    size: int = -1  # bytes of an image; -1: unknown
    start: int = 0  # number of the first image
    stop: int = 1  # number after the last
    failure: Failure | None = None  # why there is none to be read; it is then one image


def _survey_zip(file: IO[bytes], whole: Piece, _: str | None) -> Iterator[Piece]:
    archive = zipfile.ZipFile(file)
    for member in archive.infolist():
        piece = whole._replace(kind="member", name=member.filename, size=member.file_size)
        if _is_wanted(member.filename):
            yield piece
        elif member.filename.endswith(".npy"):
            with archive.open(member) as stream:
                yield from _survey_npy(stream, piece, None)


def _survey_tar(file: IO[bytes], whole: Piece, _: str | None) -> Iterator[Piece]:
    is_whole = False
    with suppress(*DAMAGE), tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every one
            if member.isfile() and _is_wanted(member.name):
                place, size = member.offset_data, member.size
                yield whole._replace(name=member.name, place=place, size=size)
        # `tarfile` takes a damaged header for the end; the end of an archive is empty.
        file.seek(archive.offset)
        is_whole = not file.read(tarfile.BLOCKSIZE).strip(b"\0")
    if not is_whole:
        yield whole._replace(failure=_LOST)


def _is_wanted(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return is_image_name(name) and not hidden


def _survey_npy(file: IO[bytes], whole: Piece, _: str | None) -> Iterator[Piece]:
    is_old = npy.read_magic(file) == (1, 0)
    read_header = npy.read_array_header_1_0 if is_old else npy.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    if is_fortran and len(shape) > 1:
        raise ValueError
    yield from _arrays(whole._replace(place=file.seek(0, os.SEEK_CUR)), shape, dtype)


def _survey_idx(file: IO[bytes], whole: Piece, _: str | None) -> Iterator[Piece]:
    kind, axes = file.read(3), file.read(1)[0]
    shape = np.frombuffer(file.read(4 * axes), ">u4").tolist()
    if kind != b"\0\0\x08" or len(shape) < axes:
        raise ValueError
    yield from _arrays(whole._replace(place=4 + 4 * axes), shape, np.dtype(np.uint8))


def _arrays(whole: Piece, shape: Sequence[int], dtype: "np.dtype[Any]") -> Iterator[Piece]:
    """One of one dimension, such as labels, holds no images."""
    if len(shape) > 1:
        size = math.prod(shape[1:]) * dtype.itemsize
        if dtype.kind not in "iuf" or not size:
            raise ValueError
        # A damaged header could promise any number of images.
        number = shape[0] if whole.size < 0 else min(shape[0], whole.size // size + 1)
        yield whole._replace(form=_form(dtype, shape[1:]), size=size, stop=number)


def _form(dtype: "np.dtype[Any]", shape: Iterable[int]) -> str:
    return " ".join([dtype.str, *map(str, shape)])


def _survey_parquet(file: IO[bytes], whole: Piece, wanted: str | None) -> Iterator[Piece]:
    opened = pq.ParquetFile(file)
    schema = opened.schema_arrow
    usable = [each.name for each in schema if pa.types.is_nested(each.type) or each.type in _FILES]
    usual = [name for name in _USUAL_NAMES if name in usable]
    likely = [wanted] if wanted else usual[:1] or usable
    if len(likely) != 1 or likely[0] not in usable:
        types = ", ".join(f"{field.name} ({field.type})" for field in schema)
        problem = f"name a column of images, binary or lists of pixels, with --column: {types}"
        yield whole._replace(failure=Failure("unreadable_column", problem))
        return
    first = 0
    for number in range(opened.num_row_groups):
        group = opened.metadata.row_group(number)
        last, size = first + group.num_rows, group.total_byte_size // max(group.num_rows, 1)
        yield Piece(whole.path, "column", str(number), likely[0], first, size, first, last)
        first = last


Survey: TypeAlias = Callable[[IO[bytes], Piece, str | None], Iterator[Piece]]
# How the pieces of a file are found that is no picture, by the end of its name.
_SURVEYS: Mapping[tuple[str, ...], Survey] = {
    (".zip", ".npz"): _survey_zip,
    (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"): _survey_tar,
    (".npy",): _survey_npy,
    (".parquet",): _survey_parquet,
    ("idx3-ubyte", "idx3-ubyte.gz"): _survey_idx,
}


def survey_of(name: str) -> Survey | None:
    """What finds the pieces of an archive, of arrays or of a column; None: it is a picture."""
    lower = name.lower()
    return next((survey for ends, survey in _SURVEYS.items() if lower.endswith(ends)), None)


def look_at(path: str) -> tuple[int, str]:
    """The size of what `open_file` opens, -1: unknown; and what changes with its content."""
    system, name = file_system(path)
    if system is None:
        status = Path(path).stat()
        size, stamp = status.st_size, f"{status.st_size} {status.st_mtime_ns}"
    else:
        size, stamp = system.info(name)["size"], str(system.ukey(name))
    return -1 if size is None or _DECOMPRESSORS.get(Path(name).suffix.lower()) else size, stamp


def open_file(path: str) -> IO[bytes]:
    """Opens a file by its path or URL; one that is compressed, as its name says, decompressed."""
    system, name = file_system(path)
    file = system.open(name) if system else name
    if decompressor := _DECOMPRESSORS.get(Path(name).suffix.lower()):
        return cast("IO[bytes]", decompressor(file))
    return cast("IO[bytes]", file) if system else Path(name).open("rb")


def file_system(path: str) -> tuple[Any, str]:
    """Of a URL, None of a path; and the name there."""
    if "://" not in path:
        return None, path
    try:
        import fsspec  # type: ignore[import-untyped]

        return cast("tuple[Any, str]", fsspec.url_to_fs(path))
    except (ImportError, ValueError) as error:  # a package is missing, or a protocol unknown
        raise OSError(errno.EPROTONOSUPPORT, str(error)) from error


class Reader:
    """Reads pieces; what the last one was in stays open, since the next may go on there."""

    def __init__(self) -> None:
        self._files = ExitStack()
        self.close = self._files.close
        self._open = lru_cache(maxsize=1)(self._open_anew)
        self._member = lru_cache(maxsize=1)(zipfile.ZipFile.open)
        self._column = lru_cache(maxsize=1)(pq.ParquetFile.read_row_group)

    def _open_anew(self, path: str, kind: str) -> Any:
        self._open.cache_clear()  # it has what is closed here, also if nothing else can be opened
        self._files.close()
        file = self._files.enter_context(open_file(path))
        return {"member": zipfile.ZipFile, "column": pq.ParquetFile}.get(kind, lambda f: f)(file)

    def read(self, piece: Piece) -> list[Sequence[str | bytes | None]]:
        """Columns: source, form of an array or empty, bytes; code and message of a Failure."""
        is_member = piece.name and piece.kind != "column"
        lost = _LOST_MEMBER if is_member else _LOST_GROUP if piece.name else _LOST
        failure = _TOO_LARGE if piece.size > LARGEST_BYTES else piece.failure
        try:
            cells = [] if failure else self._cells(piece)
        except DAMAGE as error:
            cells, failure = [], failure_of(error, lost)
        member = f":{piece.name.removesuffix('.npy')}" if is_member else ""
        source = printable(piece.path + member)
        places = range(piece.start, piece.stop)
        cells += [(None, None, *(failure or lost))] * (len(places) - len(cells))
        sources = [f"{source}[{place}]" for place in places] if piece.form else [source]
        return [sources, *zip(*cells, strict=True)]

    def _cells(self, piece: Piece) -> list[tuple[Any, ...]]:
        """What a row has after the source; of fewer images where the file ends early."""
        stream, number = self._open(piece.path, piece.kind), piece.stop - piece.start
        if piece.kind == "column":
            column = self._column(stream, int(piece.name), (piece.form,)).column(0)
            values = column.slice(piece.start - piece.place, number).to_pylist()
            return [*map(_value_cells, values)]
        if piece.kind == "member":
            stream = self._member(stream, piece.name)
        stream.seek(piece.place + piece.start * piece.size)
        content = stream.read(number * piece.size)
        size = len(content) if piece.size < 0 else piece.size
        ends = range(size, len(content) + 1, size)
        return [(piece.form, content[end - size : end], None, None) for end in ends]


def _value_cells(value: Any) -> tuple[Any, ...]:
    """Of a column's value; data sets of Hugging Face have a file in the field `bytes`."""
    value = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, bytes):
        return "", value, None, None
    if value is None:
        return None, None, *_MISSING
    with suppress(ValueError):
        if (array := np.array(value)).size and array.dtype.kind in "iuf":
            return _form(array.dtype, array.shape), array.tobytes(), None, None
    return None, None, *_RAGGED
