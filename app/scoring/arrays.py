"""Arrays of images: IDX files, plain or gzipped, NumPy's .npy, and .npz archives of them."""

import gzip
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from app.scoring.items import Content, Failure, Item, Reader, UnreadableError
from model.literals import SIDE

LARGEST_IMAGE_PIXELS = 50_000_000
GZIP = b"\x1f\x8b"
_MOST_GZIP_RATIO = 1032  # what deflate can reach
IDX_UINT8 = b"\0\0\x08"
_READ_BYTES = 2**20
_ENDS_EARLY = (
    "corrupt_file",
    "the file ends in the middle or is damaged, and what follows in it is lost",
)
_SEND_INTEGERS = "pixels must be integers from 0 to 255, where 255 is ink"
_LOOKS_SCALED = Failure(
    "invalid_pixels",
    "no pixel is above 1: these look scaled to [0, 1], which would be a black image; store "
    "integers 0 to 255",
)


def image_of(pixels: NDArray[Any]) -> Content:
    """One image's pixels, (H, W) or flat 784, checked as those of a request are."""
    if pixels.dtype.kind not in "iu":
        return Failure("invalid_pixels", f"{_SEND_INTEGERS}; these are {pixels.dtype}")
    if pixels.shape == (SIDE * SIDE,):
        pixels = pixels.reshape(SIDE, SIDE)
    if pixels.ndim != 2 or 0 in pixels.shape:
        return Failure("invalid_pixels", f"an image must be 28x28 or HxW, not {pixels.shape}")
    if pixels.dtype != np.uint8:
        if pixels.min() < 0 or pixels.max() > 255:
            return Failure("invalid_pixels", _SEND_INTEGERS)
        pixels = pixels.astype(np.uint8)
    return pixels if pixels.max() > 1 else _LOOKS_SCALED


class _ArrayReader(Reader):
    """The images of one array, which lies row after row in a stream.

    Args:
        source: what its images are called, without their index.
        open_stream: opens it.
        begin: where the first row begins, in bytes.
        shape: of the array, (N, H, W) or (N, 784).
        dtype: of integers.
        failure: why the whole array cannot be used; it then counts as one image.
    """

    def __init__(
        self,
        source: str,
        open_stream: Callable[[], IO[bytes]],
        begin: int,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        failure: Failure | None = None,
    ) -> None:
        super().__init__(source)
        self.count, *self._shape = (1,) if failure else shape
        self._failure = failure
        self._open_stream = open_stream
        self._begin = begin
        self._dtype = dtype
        self._stream: IO[bytes] | None = None

    def read(self, start: int, stop: int) -> Iterator[Item]:
        if self._failure is not None:
            yield from (Item(self.name(index), self._failure) for index in range(start, stop))
            return
        row_bytes = math.prod(self._shape) * self._dtype.itemsize
        at_a_time = max(1, _READ_BYTES // row_bytes)
        for first in range(start, stop, at_a_time):
            wanted = min(at_a_time, stop - first)
            with UnreadableError.on_damage(*_ENDS_EARLY):
                self._stream = self._stream or self._open_stream()
                # Compressed streams can do that too; only going back begins anew.
                self._stream.seek(self._begin + first * row_bytes)
                content = self._stream.read(wanted * row_bytes)
            whole = len(content) // row_bytes
            rows = np.frombuffer(content[: whole * row_bytes], self._dtype)
            for index, row in enumerate(rows.reshape(whole, *self._shape), first):
                yield Item(self.name(index), image_of(row))
            if whole < wanted:
                raise UnreadableError(*_ENDS_EARLY)

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class IdxReader(_ArrayReader):
    """The images of an IDX file of unsigned bytes, as MNIST's; gzipped or not."""

    def __init__(self, path: str) -> None:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file:
            is_gzipped = file.read(2) == GZIP
        size *= _MOST_GZIP_RATIO if is_gzipped else 1
        open_stream = cast(
            "Callable[[], IO[bytes]]", partial(gzip.open if is_gzipped else open, path, "rb")
        )
        with (
            UnreadableError.on_damage("corrupt_file", "this IDX file is damaged"),
            open_stream() as file,
        ):
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != IDX_UINT8:
                raise UnreadableError("corrupt_file", "this is no IDX file of unsigned bytes")
            sizes = file.read(4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise UnreadableError("corrupt_file", "this IDX file ends within its header")
        shape = np.frombuffer(sizes, dtype=">u4").tolist()
        if failure := _shape_failure(tuple(shape)):
            raise UnreadableError(*failure)
        # A damaged header could promise any number.
        shape[0] = min(shape[0], size // math.prod(shape[1:]) + 1)
        super().__init__(path, open_stream, 4 + len(sizes), shape, np.dtype(np.uint8))


class NumpyReader(Reader):
    """The images of a .npy file, or of all arrays of images in a .npz file.

    Of an .npz, arrays of one dimension, such as labels, are passed over.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._archive: zipfile.ZipFile | None = None
        streams = [(path, cast("Callable[[], IO[bytes]]", partial(open, path, "rb")))]
        self._arrays: list[_ArrayReader] = []
        with UnreadableError.on_damage(
            "corrupt_file",
            "this is no NumPy file that can be read: it is damaged or holds Python objects",
        ):
            if zipfile.is_zipfile(path):
                self._archive = zipfile.ZipFile(path)
                streams = [
                    (f"{path}:{member.removesuffix('.npy')}", partial(self._archive.open, member))
                    for member in self._archive.namelist()
                ]
            for source, open_stream in streams:
                with open_stream() as file:
                    major, _ = npy.read_magic(file)
                    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
                    shape, is_fortran, dtype = read(file)
                    begin = file.seek(0, os.SEEK_CUR)
                if self._archive is not None and len(shape) < 2:
                    continue
                failure = _array_failure(shape, is_fortran, dtype)
                self._arrays.append(_ArrayReader(source, open_stream, begin, shape, dtype, failure))
        if not self._arrays:
            raise UnreadableError("invalid_pixels", "there is no array of images in this file")
        self.count = sum(array.count for array in self._arrays)

    def read(self, start: int, stop: int) -> Iterator[Item]:
        first = 0
        for array in self._arrays:
            yield from array.read(max(start - first, 0), min(stop - first, array.count))
            if stop - first >= array.count:
                array.close()
            first += array.count

    def name(self, index: int) -> str:
        for array in self._arrays:
            if index < array.count:
                return array.name(index)
            index -= array.count
        return self._path

    def close(self) -> None:
        for array in self._arrays:
            array.close()
        if self._archive is not None:
            self._archive.close()


def _array_failure(
    shape: tuple[int, ...], is_fortran: bool, dtype: np.dtype[Any]
) -> Failure | None:
    """What is wrong with a whole array, if something is."""
    if failure := _shape_failure(shape):
        return failure
    if not np.issubdtype(dtype, np.integer):
        return Failure("invalid_pixels", f"{_SEND_INTEGERS}; this array has {dtype}")
    if is_fortran:
        return Failure(
            "invalid_pixels",
            "the array is in Fortran order; store numpy.ascontiguousarray of it",
        )
    return None


def _shape_failure(shape: tuple[int, ...]) -> Failure | None:
    """What is wrong with a shape that is neither (N, H, W) nor (N, 784), or too large."""
    is_flat = len(shape) == 2 and shape[1] == SIDE * SIDE
    if not (is_flat or len(shape) == 3) or 0 in shape:
        return Failure(
            "invalid_pixels",
            "images must have the shape (N, 28, 28), (N, height, width) or (N, 784), and not "
            f"{shape}",
        )
    if math.prod(shape[1:]) > LARGEST_IMAGE_PIXELS:
        return Failure("too_many_pixels", "the images have too many pixels; scale them down")
    return None
