"""A column of images in a Parquet file: encoded files, or pixels as lists of integers."""

from collections.abc import Callable, Generator, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.scoring.arrays import image_of
from app.scoring.items import Failure, Image, Item, UnreadableError
from app.scoring.limits import LARGEST_FILE_BYTES, too_large

# Looked for in this order; else the only column that can hold images.
_USUAL_NAMES = ("image", "img", "pixels", "bytes", "content")
# What is read at a time. Counted from the start of a row group, so that damage costs the same rows
# wherever reading started.
_BATCH_ROWS = 256
_BUFFER_BYTES = 2**20
_MISSING = Failure("missing_image", "the column has no image in this row")
_UNREADABLE = (
    "unreadable_column",
    "the image column is damaged here, and the rest of its row group is lost; write the file again",
)

Values = Generator[Image | Failure, None, None]


class ParquetReader:
    """The images of one column, in the order of the rows."""

    def __init__(self, path: str, column: str | None) -> None:
        self._path = path
        try:
            # Streams: a row group can be larger than memory.
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            schema = self._file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise UnreadableError(
                "corrupt_file", "this is no Parquet file that can be read; write it again"
            ) from error
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._bounds = np.cumsum([0, *sizes]).tolist()  # where row groups begin and end
        self.count: int = metadata.num_rows
        self._column, self._values = _choose_column(schema, column)
        if self.count == 0:
            raise UnreadableError("unreadable_file", "there is no image in this file")
        self._rows = self._walk(0)
        self._next = 0

    def read(self, start: int, stop: int) -> Iterator[Item]:
        """See `Reader.read`."""
        begin = max(bound for bound in self._bounds[:-1] if bound <= start)
        if start < self._next or begin > self._next:
            self._rows.close()
            self._rows, self._next = self._walk(begin), begin
        for index in range(self._next, stop):
            image = next(self._rows)
            self._next = index + 1
            if index >= start:
                yield Item(self.name(index), image)

    def _walk(self, begin: int) -> Values:
        """The images from the row group on that begins with a row."""
        for group, (first, last) in enumerate(pairwise(self._bounds)):
            if first < begin:
                continue
            read = 0
            try:
                for batch in self._file.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=[self._column], use_threads=False
                ):
                    (array,) = batch.columns
                    # A whole batch before its first image: it is damaged as a whole.
                    images = list(self._values(array))
                    read += len(images)
                    yield from images
            except (pa.ArrowException, OSError):
                for _ in range(read, last - first):
                    yield Failure(*_UNREADABLE)

    def name(self, index: int) -> str:
        """The file and the row in it."""
        return f"{self._path}[{index}]"

    def close(self) -> None:
        """Closes the file."""
        self._rows.close()
        self._file.close()


def _choose_column(schema: Any, wanted: str | None) -> tuple[str, Callable[[Any], Values]]:
    """The column's path, and what turns its arrays into images.

    Raises:
        UnreadableError: there is no such column, or none that holds images.
    """
    if wanted is not None and wanted not in schema.names:
        raise UnreadableError(
            "unreadable_column",
            f"there is no column {wanted} in this file; it has {', '.join(schema.names)}",
        )
    usable = {field.name: use for field in schema if (use := _usage(field)) is not None}
    if wanted is not None:
        chosen = [wanted] if wanted in usable else []
    else:
        chosen = [name for name in _USUAL_NAMES if name in usable] or list(usable)
        if len(chosen) > 1 and chosen[0] not in _USUAL_NAMES:
            raise UnreadableError(
                "unreadable_column",
                f"any of {', '.join(chosen)} may be the images; name one with --column",
            )
    if not chosen:
        types = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UnreadableError(
            "unreadable_column",
            "images are a column of binary (image files) or of lists of integers (pixels), and "
            f"this file has {types}",
        )
    return usable[chosen[0]]


def _usage(field: Any) -> tuple[str, Callable[[Any], Values]] | None:
    kind = field.type
    if _is_binary(kind):
        return field.name, _files
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        # As the field is written by Hugging Face's data sets.
        if _is_binary(kind.field("bytes").type):
            return f"{field.name}.bytes", lambda array: _files(array.field("bytes"))
        return None
    while _is_list(kind):
        kind = kind.value_type
        if pa.types.is_integer(kind):
            return field.name, _pixels
    return None


def _is_binary(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _files(array: Any) -> Values:
    for value in array:
        content = value.as_py()
        if content is None:
            yield _MISSING
        else:
            yield content if len(content) <= LARGEST_FILE_BYTES else too_large()


def _pixels(array: Any) -> Values:
    """Flat lists, or lists of rows."""
    array = _as_list(array)
    offsets = array.offsets.to_numpy().tolist()
    values = array.values
    is_nested = _is_list(values.type)
    if is_nested:
        values = _as_list(values)
        row_offsets = values.offsets.to_numpy()
        values = values.values
    numbers = values.to_numpy(zero_copy_only=False)
    for valid, (begin, end) in zip(array.is_valid().to_pylist(), pairwise(offsets), strict=True):
        if not valid:
            yield _MISSING
        elif not is_nested:
            yield image_of(numbers[begin:end])
        else:
            bounds = row_offsets[begin : end + 1]
            widths = set(np.diff(bounds).tolist())
            if len(widths) != 1:
                yield Failure("invalid_pixels", "the rows of this image differ in length")
                continue
            yield image_of(numbers[bounds[0] : bounds[-1]].reshape(end - begin, widths.pop()))


def _as_list(array: Any) -> Any:
    if pa.types.is_fixed_size_list(array.type):
        return array.cast(pa.list_(array.type.value_type))
    return array
