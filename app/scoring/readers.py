"""The images in pictures, archives, arrays and columns, from any of them on, in bounded memory."""

import gzip
import math
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from itertools import islice
from lzma import LZMAError
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple, TypeAlias, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib import format as npy
from numpy.typing import NDArray

from app.inference.plain_inputs import as_input, described, flatten
from model.arrays import Floats, Pixels
from model.files import is_image_name
from model.layered import InputSpec
from model.literals import SIDE

LARGEST_FILE_BYTES = 256 * 2**20  # more than 50 million pixels in four channels need
_LARGEST_PIXELS = 50_000_000
GZIP, IDX_UINT8 = b"\x1f\x8b", b"\0\0\x08"
_MOST_GZIP_RATIO = 1032  # what deflate can reach
_READ_BYTES = 2**20
_ENCRYPTED = 0x1  # a flag of a zip's member
# What libraries raise on damaged bytes. RuntimeError: a compression method that Python lacks.
DAMAGE = (
    *(EOFError, OSError, RuntimeError, ValueError, LZMAError, zlib.error),
    *(pa.ArrowException, tarfile.TarError, zipfile.BadZipFile),
)


class Failure(NamedTuple):
    """Why an image has no answer."""

    code: str  # for programs: the API's own codes, or one of reading files
    message: str  # for people: what to do


# An image file's bytes; brightness 0 to 255, (H, W), or numbers, (1, N); or why there is none.
Content: TypeAlias = bytes | Pixels | Floats | Failure
# An image's source, which is a path, `archive:member` or `file[index]`, and its content.
Item: TypeAlias = tuple[str, Content]

_DAMAGED_MEMBER = "this member of the archive is damaged; pack the archive again"
_ENCRYPTED_MEMBER = "this member of the archive is encrypted; unpack the archive first"
_DAMAGED_REST = "the archive is damaged, and what follows in it is lost; pack it again"
_ENDS_EARLY = "the file ends in the middle or is damaged, and what follows in it is lost"
_NO_NUMPY = "this is no NumPy file that can be read: it is damaged or holds Python objects"
_NO_IDX = "this is no IDX file of unsigned bytes, or it is damaged"
_FORTRAN = "the array is in Fortran order; store numpy.ascontiguousarray of it"
_SEND_INTEGERS = "pixels must be integers from 0 to 255, where 255 is ink"
_LOOKS_SCALED = (
    "no pixel is above 1: these look scaled to [0, 1], which would be a black image; store "
    "integers 0 to 255"
)


class UnreadableError(Exception):
    """A file, or what follows in it, cannot be read."""

    def __init__(self, code: str, message: str) -> None:
        self.failure = Failure(code, message)


class Images(NamedTuple):
    """The images of an open file: how many, those that cannot be read included, and from one on."""

    number: Callable[[], int]
    read: Callable[[int], Iterator[Item]]


@contextmanager
def on_damage(code: str, message: str) -> Iterator[None]:
    """Raises UnreadableError in place of what a library raises on damaged bytes."""
    try:
        yield
    except DAMAGE as error:
        raise UnreadableError(code, message) from error


def failure_of(error: UnreadableError | OSError) -> Failure:
    """Why the images of a file have no answers."""
    if isinstance(error, UnreadableError):
        return error.failure
    is_missing = isinstance(error, FileNotFoundError)
    message = f"it cannot be read: {error.strerror or error}"
    return Failure("unreadable_file", "there is no such file" if is_missing else message)


def read_image(file: IO[bytes]) -> bytes | Failure:
    """An image file's content, unless it is too large."""
    content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) <= LARGEST_FILE_BYTES:
        return content
    size = f"{LARGEST_FILE_BYTES >> 20} MB"
    return Failure("too_large", f"the file has more than {size}; scale it down")


def input_of(values: Any, spec: InputSpec) -> Content:
    """The numbers of another network's input, (1, N), checked as those of a request are."""
    found, problem = as_input(flatten(values, spec.shape), spec), f"it must be {described(spec)}"
    return Failure("invalid_pixels", problem) if found is None else found.reshape(1, -1)


def image_of(pixels: NDArray[Any]) -> Content:
    """One image's pixels, (H, W) or flat 784, checked as those of a request are."""
    problem = _LOOKS_SCALED
    if pixels.shape == (SIDE * SIDE,):
        pixels = pixels.reshape(SIDE, SIDE)
    if pixels.dtype.kind not in "iu":
        problem = f"{_SEND_INTEGERS}; these are {pixels.dtype}"
    elif pixels.ndim != 2 or 0 in pixels.shape:
        problem = f"an image must be 28x28 or HxW, not {pixels.shape}"
    elif pixels.dtype != np.uint8 and (pixels.min() < 0 or pixels.max() > 255):
        problem = _SEND_INTEGERS
    elif pixels.max() > 1:
        return pixels.astype(np.uint8, copy=False)
    return Failure("invalid_pixels", problem)


def open_images(
    file: IO[bytes], path: str, kind: str, column: str | None, spec: InputSpec | None = None
) -> Images:
    """The images of a file of a kind, see `sources`, or of a column of a Parquet file.

    Raises:
        UnreadableError: it is damaged, or not what it seems to be.
    """
    if kind == "parquet":
        return _open_parquet(file, path, column, spec)
    kinds = {"zip": _open_zip, "tar": _open_tar, "numpy": _open_numpy, "idx": _open_idx}
    return kinds.get(kind, _open_picture)(file, path, spec)


def _open_picture(file: IO[bytes], path: str, _: InputSpec | None) -> Images:
    return Images(lambda: 1, lambda start: ((path, read_image(file)) for _ in range(start, 1)))


def _open_zip(file: IO[bytes], path: str, _: InputSpec | None) -> Images:
    with on_damage("corrupt_archive", "this zip archive is damaged; pack it again"):
        archive = zipfile.ZipFile(file)
    members = [each for each in archive.infolist() if _is_wanted(each.filename)]

    def read(start: int) -> Iterator[Item]:
        for member in members[start:]:
            content: Content = Failure("encrypted_member", _ENCRYPTED_MEMBER)
            if not member.flag_bits & _ENCRYPTED:
                content = _read_member(partial(archive.open, member), member.file_size)
            yield f"{path}:{member.filename}", content

    return Images(members.__len__, read)


def _open_tar(file: IO[bytes], path: str, _: InputSpec | None) -> Images:
    """A tar has no directory: counting goes through it once. Damage counts as a last image."""

    def walk() -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo] | None]:
        is_whole = False
        with suppress(*DAMAGE), tarfile.open(fileobj=file) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep every one
                if member.isfile() and _is_wanted(member.name):
                    yield archive, member
            # `tarfile` takes a damaged header for the end; the end of an archive is empty.
            stream = cast("IO[bytes]", archive.fileobj)
            stream.seek(archive.offset)
            is_whole = not stream.read(tarfile.BLOCKSIZE).strip(b"\0")
        if not is_whole:
            yield None

    def read(start: int) -> Iterator[Item]:
        for found in islice(walk(), start, None):
            if found is None:
                yield path, Failure("corrupt_archive", _DAMAGED_REST)
            else:
                archive, member = found
                content = _read_member(partial(archive.extractfile, member), member.size)
                yield f"{path}:{member.name}", content

    return Images(lambda: sum(1 for _ in walk()), read)


def _is_wanted(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)
    return is_image_name(name) and not hidden


def _read_member(open_member: Callable[[], IO[bytes] | None], size: int) -> Content:
    with suppress(*DAMAGE), cast("IO[bytes]", open_member()) as file:
        content = read_image(file)
        if isinstance(content, Failure) or len(content) == size:
            return content
    return Failure("corrupt_member", _DAMAGED_MEMBER)


def _open_numpy(file: IO[bytes], path: str, spec: InputSpec | None) -> Images:
    """Of an .npz, arrays of one dimension, such as labels, are passed over."""
    streams: dict[str, Callable[[], IO[bytes]]] = {path: lambda: file}
    arrays = []
    with on_damage("corrupt_file", _NO_NUMPY):
        if is_archive := zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            names = archive.namelist()
            streams = {f"{path}:{n.removesuffix('.npy')}": partial(archive.open, n) for n in names}
        file.seek(0)
        for source, open_stream in streams.items():
            stream = open_stream()
            major, _ = npy.read_magic(stream)
            read_header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
            shape, is_fortran, dtype = read_header(stream)
            if not is_archive or len(shape) > 1:
                failure = _failure_of_array(shape, dtype, spec)
                if is_fortran:
                    failure = failure or Failure("invalid_pixels", _FORTRAN)
                begin = stream.seek(0, os.SEEK_CUR)
                arrays.append(_array(source, open_stream, begin, shape, dtype, spec, failure))
    if not arrays:
        raise UnreadableError("invalid_pixels", "there is no array of images in this file")

    def read(start: int) -> Iterator[Item]:
        for array in arrays:
            yield from array.read(start)
            start = max(start - array.number(), 0)

    return Images(lambda: sum(array.number() for array in arrays), read)


def _open_idx(file: IO[bytes], path: str, spec: InputSpec | None) -> Images:
    """Of unsigned bytes, as MNIST's; gzipped or not."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    is_gzipped = file.read(len(GZIP)) == GZIP
    file.seek(0)
    stream = cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if is_gzipped else file
    with on_damage("corrupt_file", _NO_IDX):
        magic = stream.read(4)
        sizes = stream.read(4 * magic[3]) if magic[:3] == IDX_UINT8 else b""
        if len(magic) < 4 or not sizes or len(sizes) < 4 * magic[3]:
            raise ValueError
    shape, dtype = np.frombuffer(sizes, dtype=">u4").tolist(), np.dtype(np.uint8)
    if failure := _failure_of_array(tuple(shape), dtype, spec):
        raise UnreadableError(*failure)
    # A damaged header could promise any number.
    most = size * (_MOST_GZIP_RATIO if is_gzipped else 1) // math.prod(shape[1:]) + 1
    shape[0] = min(shape[0], most)
    return _array(path, lambda: stream, 4 + len(sizes), shape, dtype, spec)


def _array(
    source: str,
    open_stream: Callable[[], IO[bytes]],
    begin: int,
    shape: Sequence[int],
    dtype: np.dtype[Any],
    spec: InputSpec | None,
    failure: Failure | None = None,
) -> Images:
    """Of an array that lies in a stream from a byte on; one with a failure counts as one image."""
    number = 1 if failure else shape[0]

    def rows(start: int) -> Iterator[Content]:
        row_bytes = math.prod(shape[1:]) * dtype.itemsize
        with suppress(*DAMAGE):
            stream = open_stream()
            stream.seek(begin + start * row_bytes)  # compressed streams can do that, too
            at_a_time = max(1, _READ_BYTES // row_bytes) * row_bytes
            while whole := len(content := stream.read(at_a_time)) // row_bytes:
                found = np.frombuffer(content[: whole * row_bytes], dtype).reshape(whole, -1)
                if spec is not None:
                    yield from (input_of(row, spec) for row in found.tolist())
                    continue
                is_plain = dtype == np.uint8 and found.max(axis=1).min() > 1
                images = found.reshape(whole, *(shape[1:] if len(shape) > 2 else (SIDE, SIDE)))
                yield from images if is_plain else map(image_of, images)

    def read(start: int) -> Iterator[Item]:
        found = iter([failure]) if failure else rows(start)
        for index in range(start, number):
            yield f"{source}[{index}]", next(found, Failure("corrupt_file", _ENDS_EARLY))

    return Images(lambda: number, read)


def _failure_of_array(
    shape: tuple[int, ...], dtype: np.dtype[Any], spec: InputSpec | None
) -> Failure | None:
    problem = None
    if spec is not None:
        fits = shape[1:] in (spec.shape, (math.prod(spec.shape),)) and 0 not in shape
        if not fits or dtype.kind not in "iuf":
            problem = f"each row must be {described(spec)}, and the array is {shape} of {dtype}"
    elif not (len(shape) == 3 or shape[1:] == (SIDE * SIDE,)) or 0 in shape:
        wanted = "(N, 28, 28), (N, height, width) or (N, 784)"
        problem = f"images must have the shape {wanted}, and not {shape}"
    elif math.prod(shape[1:]) > _LARGEST_PIXELS:
        return Failure("too_many_pixels", "the images have too many pixels; scale them down")
    elif dtype.kind not in "iu":
        problem = f"{_SEND_INTEGERS}; this array has {dtype}"
    return Failure("invalid_pixels", problem) if problem else None


# Looked for in this order; else the only column that can hold images.
_USUAL_NAMES = ("image", "img", "pixels", "bytes", "content")
# What is read at a time. Counted from the start of a row group, so that damage costs the same rows
# wherever reading started.
_BATCH_ROWS = 256
_FILES = (pa.binary(), pa.large_binary())
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
_MISSING = Failure("missing_image", "the column has no image in this row")
_DAMAGED_COLUMN = "the image column is damaged here, and the rest of its row group is lost"
_UNREADABLE = Failure("unreadable_column", f"{_DAMAGED_COLUMN}; write the file again")


def _open_parquet(file: IO[bytes], path: str, column: str | None, spec: InputSpec | None) -> Images:
    with on_damage("corrupt_file", "this is no Parquet file that can be read; write it again"):
        # Streams: a row group can be larger than memory.
        opened = pq.ParquetFile(file, buffer_size=_READ_BYTES, pre_buffer=False)
    name, content_of = _choose_column(opened.schema_arrow, column, spec)

    def read_group(group: int) -> Iterator[Content]:
        try:
            for batch in opened.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=[name], use_threads=False
            ):
                # A whole batch before its first image: it is damaged as a whole.
                yield from [content_of(value) for value in batch.column(0)]
        except (pa.ArrowException, OSError):
            return

    def read(start: int) -> Iterator[Item]:
        first = 0
        for group in range(opened.num_row_groups):
            last = first + opened.metadata.row_group(group).num_rows
            images = read_group(group)
            for index in range(first, last) if start < last else ():
                image = next(images, _UNREADABLE)
                if index >= start:
                    yield f"{path}[{index}]", image
            first = last

    return Images(lambda: opened.metadata.num_rows, read)


def _choose_column(
    schema: Any, wanted: str | None, spec: InputSpec | None
) -> tuple[str, Callable[[Any], Content]]:
    usable = {field.name: use for field in schema if (use := _usage(field, spec)) is not None}
    usual = [name for name in _USUAL_NAMES if name in usable]
    chosen = wanted or next(iter(usual or usable), None)
    if chosen in usable and (wanted or usual or len(usable) == 1):
        return usable[chosen]
    types = ", ".join(f"{field.name} ({field.type})" for field in schema)
    problem = f"images are binary or lists of integers (pixels), and this file has {types}"
    if wanted is not None and wanted not in schema.names:
        problem = f"there is no column {wanted} in this file; it has {', '.join(schema.names)}"
    elif usable and wanted is None:
        problem = f"any of {', '.join(usable)} may be the images; name one with --column"
    raise UnreadableError("unreadable_column", problem)


def _usage(field: Any, spec: InputSpec | None) -> tuple[str, Callable[[Any], Content]] | None:
    """A column's path, and what turns its values into images; None: it holds none."""
    kind = field.type
    if kind in _FILES:
        return field.name, _file_of
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        # As the field is written by Hugging Face's data sets.
        is_file = kind.field("bytes").type in _FILES
        return (f"{field.name}.bytes", lambda each: _file_of(each["bytes"])) if is_file else None
    while isinstance(kind, _LISTS):
        kind = kind.value_type
        if pa.types.is_integer(kind) or (spec and pa.types.is_floating(kind)):
            return field.name, partial(_pixels_of, spec)
    return None


def _file_of(value: Any) -> Content:
    return read_image(BytesIO(value.as_py())) if value.is_valid else _MISSING


def _pixels_of(spec: InputSpec | None, value: Any) -> Content:
    if not value.is_valid:
        return _MISSING
    if spec is not None:
        return input_of(value.as_py(), spec)
    try:
        return image_of(np.array(value.as_py()))
    except ValueError:
        return Failure("invalid_pixels", "the rows of this image differ in length")
