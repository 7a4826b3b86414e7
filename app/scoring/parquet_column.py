"""A column of images in a Parquet file: encoded files, or pixels as lists of integers."""

from collections.abc import Callable, Generator, Iterator
from io import BytesIO
from itertools import accumulate, pairwise, repeat
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.scoring.arrays import image_of
from app.scoring.items import Content, Failure, Item, Reader, UnreadableError, read_image

# Looked for in this order; else the only column that can hold images.
_USUAL_NAMES = ("image", "img", "pixels", "bytes", "content")
# What is read at a time. Counted from the start of a row group, so that damage costs the same rows
# wherever reading started.
_BATCH_ROWS = 256
_BUFFER_BYTES = 2**20
_FILES = (pa.binary(), pa.large_binary())
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
_MISSING = Failure("missing_image", "the column has no image in this row")
_UNREADABLE = Failure(
    "unreadable_column",
    "the image column is damaged here, and the rest of its row group is lost; write the file again",
)


class ParquetReader(Reader):
    """The images of one column, in the order of the rows."""

    def __init__(self, path: str, column: str | None) -> None:
        super().__init__(path)
        with UnreadableError.on_damage(
            "corrupt_file", "this is no Parquet file that can be read; write it again"
        ):
            # Streams: a row group can be larger than memory.
            self._file = pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            schema = self._file.schema_arrow
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._bounds = [0, *accumulate(sizes)]  # where row groups begin and end
        self.count = metadata.num_rows
        self._column, self._content_of = _choose_column(schema, column)
        if self.count == 0:
            raise UnreadableError("unreadable_file", "there is no image in this file")
        self._images = self._walk(0)
        self._next = 0

    def read(self, start: int, stop: int) -> Iterator[Item]:
        begin = max(bound for bound in self._bounds[:-1] if bound <= start)
        if start < self._next or begin > self._next:
            self._images.close()
            self._images, self._next = self._walk(begin), begin
        for index in range(self._next, stop):
            image = next(self._images)
            self._next = index + 1
            if index >= start:
                yield Item(self.name(index), image)

    def _walk(self, begin: int) -> Generator[Content, None, None]:
        """The images from the row group on that begins with a row."""
        for group, (first, last) in enumerate(pairwise(self._bounds)):
            if first < begin:
                continue
            read = 0
            try:
                for batch in self._file.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=[self._column], use_threads=False
                ):
                    (values,) = batch.columns
                    # A whole batch before its first image: it is damaged as a whole.
                    images = [
                        self._content_of(value) if value.is_valid else _MISSING for value in values
                    ]
                    read += len(images)
                    yield from images
            except (pa.ArrowException, OSError):
                yield from repeat(_UNREADABLE, last - first - read)

    def close(self) -> None:
        self._images.close()
        self._file.close()


def _choose_column(schema: Any, wanted: str | None) -> tuple[str, Callable[[Any], Content]]:
    """The column's path, and what turns its values into images.

    Raises:
        UnreadableError: there is no such column, or none that holds images.
    """
    usable = {field.name: use for field in schema if (use := _usage(field)) is not None}
    usual = [name for name in _USUAL_NAMES if name in usable]
    chosen = wanted or next(iter(usual or usable), None)
    if chosen in usable and (wanted or usual or len(usable) == 1):
        return usable[chosen]
    if wanted is not None and wanted not in schema.names:
        problem = f"there is no column {wanted} in this file; it has {', '.join(schema.names)}"
    elif usable and wanted is None:
        problem = f"any of {', '.join(usable)} may be the images; name one with --column"
    else:
        types = ", ".join(f"{field.name} ({field.type})" for field in schema)
        problem = (
            "images are a column of binary (image files) or of lists of integers (pixels), and "
            f"this file has {types}"
        )
    raise UnreadableError("unreadable_column", problem)


def _usage(field: Any) -> tuple[str, Callable[[Any], Content]] | None:
    kind = field.type
    if kind in _FILES:
        return field.name, _file_of
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        # As the field is written by Hugging Face's data sets.
        if kind.field("bytes").type in _FILES:
            return f"{field.name}.bytes", lambda value: _file_of(value["bytes"])
        return None
    while isinstance(kind, _LISTS):
        kind = kind.value_type
        if pa.types.is_integer(kind):
            return field.name, _pixels_of
    return None


def _file_of(value: Any) -> Content:
    content: bytes | None = value.as_py()
    return _MISSING if content is None else read_image(BytesIO(content))


def _pixels_of(value: Any) -> Content:
    """Of a flat list, or of a list of rows."""
    values = value.values
    if not isinstance(values.type, _LISTS):
        return image_of(values.to_numpy(zero_copy_only=False))
    widths = set(pc.list_value_length(values).to_pylist())
    if len(widths) != 1 or None in widths:
        return Failure("invalid_pixels", "the rows of this image differ in length")
    pixels = values.flatten().to_numpy(zero_copy_only=False)
    return image_of(pixels.reshape(len(values), widths.pop()))
