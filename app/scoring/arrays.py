"""Arrays of images: IDX files, plain or gzipped, NumPy's .npy, and .npz archives of them."""

import gzip
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from app.scoring.items import Failure, Image, Item, UnreadableError
from app.scoring.limits import LARGEST_IMAGE_PIXELS
from model.literals import SIDE

_GZIP = b"\x1f\x8b"
_MOST_GZIP_RATIO = 1032  # what deflate can reach
IDX_UINT8 = b"\0\0\x08"
_READ_BYTES = 2**20
# What reading damaged bytes raises.
_DAMAGE = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError)

_INTEGERS = "iu"  # NumPy's kinds of them; asked of every image
_SEND_INTEGERS = "pixels must be integers from 0 to 255, where 255 is ink"
_LOOKS_SCALED = Failure(
    "invalid_pixels",
    "no pixel is above 1: these look scaled to [0, 1], which would be a black image; store "
    "integers 0 to 255",
)
_ENDS_EARLY = "the file ends in the middle or is damaged, and what follows in it is lost"


def image_of(pixels: NDArray[Any]) -> Image | Failure:
    """One image's pixels, (H, W) or flat 784, checked as those of a request are."""
    if pixels.dtype.kind not in _INTEGERS:
        return Failure("invalid_pixels", f"{_SEND_INTEGERS}; these are {pixels.dtype}")
    if pixels.shape == (SIDE * SIDE,):
        pixels = pixels.reshape(SIDE, SIDE)
    if pixels.ndim != 2 or 0 in pixels.shape:
        return Failure(
            "invalid_pixels", f"an image must be 28x28 or HxW, not {_words(pixels.shape)}"
        )
    if pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 255:
            return Failure("invalid_pixels", _SEND_INTEGERS)
        pixels = pixels.astype(np.uint8)
    if pixels.max() <= 1:
        return _LOOKS_SCALED
    image: NDArray[np.uint8] = pixels
    return image


class _Rows:
    """The images of one array, which lies row after row in a stream."""

    def __init__(self, file: IO[bytes], shape: Sequence[int], dtype: np.dtype[Any]) -> None:
        self.count = shape[0]
        self._file = file
        self._shape = tuple(shape[1:])
        self._dtype = dtype
        self._row_bytes = math.prod(self._shape) * dtype.itemsize
        self._next = 0

    @property
    def next(self) -> int:
        """Number of the image that comes next in the stream."""
        return self._next

    def read(self, start: int, stop: int) -> Iterator[Image | Failure]:
        """The images from `start`, which has not been read yet, up to `stop`."""
        self._skip((start - self._next) * self._row_bytes)
        self._next = start
        at_a_time = max(1, _READ_BYTES // self._row_bytes)
        while self._next < stop:
            wanted = min(at_a_time, stop - self._next)
            content = self._read(wanted * self._row_bytes)
            whole = len(content) // self._row_bytes
            # Before they are given out: who wants no more of them leaves the stream behind them.
            self._next += whole
            rows = np.frombuffer(content, self._dtype, whole * math.prod(self._shape))
            for row in rows.reshape(whole, *self._shape):
                yield image_of(row)
            if whole < wanted:
                raise UnreadableError("corrupt_file", _ENDS_EARLY)

    def _skip(self, size: int) -> None:
        try:
            self._file.seek(size, 1)
        except _DAMAGE as error:
            raise UnreadableError("corrupt_file", _ENDS_EARLY) from error

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except _DAMAGE as error:
            raise UnreadableError("corrupt_file", _ENDS_EARLY) from error


class IdxReader:
    """The images of an IDX file of unsigned bytes, as MNIST's; gzipped or not."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows = self._open()
        self.count = self._rows.count

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """See `Reader.read`."""
        if start < self._rows.next:
            self.close()
            self._rows = self._open()
        for index, image in enumerate(self._rows.read(start, stop), start):
            yield Item(self.name(index), image)

    def _open(self) -> _Rows:
        size = Path(self._path).stat().st_size
        file: IO[bytes] = Path(self._path).open("rb")  # noqa: SIM115  stays open
        try:
            if file.read(2) == _GZIP:
                size *= _MOST_GZIP_RATIO
                file.close()
                file = gzip.open(self._path)  # type: ignore[assignment]  # noqa: SIM115  as above
            file.seek(0)
            shape = _read_idx_shape(file)
        except _DAMAGE as error:
            file.close()
            raise UnreadableError("corrupt_file", "this IDX file is damaged") from error
        except UnreadableError:
            file.close()
            raise
        self._file = file
        # A damaged header could promise any number.
        count = min(shape[0], size // max(1, math.prod(shape[1:])) + 1)
        return _Rows(file, (count, *shape[1:]), np.dtype(np.uint8))

    def name(self, index: int) -> str:
        """The file and the index in it."""
        return f"{self._path}[{index}]"

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _read_idx_shape(file: IO[bytes]) -> tuple[int, ...]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != IDX_UINT8:
        raise UnreadableError("corrupt_file", "this is no IDX file of unsigned bytes")
    sizes = file.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise UnreadableError("corrupt_file", "this IDX file ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    _require_images(shape)
    return shape


class NumpyReader:
    """The images of a .npy file, or of all arrays of images in a .npz file.

    Of an .npz, arrays of one dimension, such as labels, are passed over.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._archive: zipfile.ZipFile | None = None
        self._rows: _Rows | None = None
        self._open_array = -1
        self._file: IO[bytes] | None = None
        try:
            with Path(path).open("rb") as file:
                is_archive = zipfile.is_zipfile(file)
            if is_archive:
                self._archive = zipfile.ZipFile(path)
                members = self._archive.namelist()
            else:
                members = [""]
            self._arrays = self._survey(members)
        except (*_DAMAGE, ValueError) as error:
            self.close()
            raise UnreadableError(
                "corrupt_file",
                "this is no NumPy file that can be read: it is damaged or holds Python objects",
            ) from error
        self.count = sum(count for _, _, count in self._arrays)

    def _survey(self, members: Sequence[str]) -> list[tuple[str, Failure | None, int]]:
        """Per array its name, what is wrong with all of it, and how many images it has."""
        arrays: list[tuple[str, Failure | None, int]] = []
        for member in members:
            with self._open(member) as file:
                shape, is_fortran, dtype = _read_npy_header(file)
            if self._archive is not None and len(shape) <= 1:
                continue
            failure = _array_failure(shape, is_fortran, dtype)
            arrays.append((member, failure, 1 if failure else shape[0]))
        if not arrays:
            raise UnreadableError("invalid_pixels", "there is no array of images in this file")
        return arrays

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """See `Reader.read`."""
        first = 0
        for number, (_, failure, count) in enumerate(self._arrays):
            begin, end = max(start - first, 0), min(stop - first, count)
            if begin < end:
                if failure is not None:
                    yield Item(self.name(first), failure)
                else:
                    rows = self._rows_from(number, begin)
                    for index, image in enumerate(rows.read(begin, end), first + begin):
                        yield Item(self.name(index), image)
            first += count

    def _rows_from(self, number: int, begin: int) -> _Rows:
        if self._rows is None or number != self._open_array or begin < self._rows.next:
            if self._file is not None:
                self._file.close()
            self._file = self._open(self._arrays[number][0])
            shape, _, dtype = _read_npy_header(self._file)
            self._rows, self._open_array = _Rows(self._file, shape, dtype), number
        return self._rows

    def _open(self, member: str) -> IO[bytes]:
        return self._archive.open(member) if self._archive else Path(self._path).open("rb")

    def name(self, index: int) -> str:
        """The file, the array, and the index in it."""
        for member, _, count in self._arrays:
            if index < count:
                key = f":{member.removesuffix('.npy')}" if member else ""
                return f"{self._path}{key}[{index}]"
            index -= count
        return self._path

    def close(self) -> None:
        """Closes the file."""
        for opened in (self._file, self._archive):
            if opened is not None:
                opened.close()


def _read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    major, _ = npy.read_magic(file)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return header


def _array_failure(
    shape: tuple[int, ...], is_fortran: bool, dtype: np.dtype[Any]
) -> Failure | None:
    """What is wrong with a whole array, if something is."""
    try:
        _require_images(shape)
    except UnreadableError as error:
        return error.failure
    if dtype.hasobject or not np.issubdtype(dtype, np.integer):
        return Failure("invalid_pixels", f"{_SEND_INTEGERS}; this array has {dtype}")
    if is_fortran:
        return Failure(
            "invalid_pixels",
            "the array is in Fortran order; store numpy.ascontiguousarray of it",
        )
    return None


def _require_images(shape: tuple[int, ...]) -> None:
    """Refuses what is no (N, H, W) and no (N, 784)."""
    is_flat = len(shape) == 2 and shape[1] == SIDE * SIDE
    if not (is_flat or len(shape) == 3) or 0 in shape:
        raise UnreadableError(
            "invalid_pixels",
            f"images must have the shape (N, 28, 28), (N, height, width) or (N, 784), and not "
            f"{_words(shape)}",
        )
    if math.prod(shape[1:]) > LARGEST_IMAGE_PIXELS:
        raise UnreadableError("too_many_pixels", "the images have too many pixels; scale them down")


def _words(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
