"""A column of images in a Parquet file: encoded files, or pixels as lists of integers."""

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.scoring.readers import (
    Content,
    Failure,
    Images,
    Item,
    UnreadableError,
    image_of,
    on_damage,
    read_image,
)

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


def open_parquet(file: IO[bytes], path: str, column: str | None) -> Images:
    """The images of one column; None: of the one that holds images."""
    with on_damage("corrupt_file", "this is no Parquet file that can be read; write it again"):
        # Streams: a row group can be larger than memory.
        opened = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    name, content_of = _choose_column(opened.schema_arrow, column)

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


def _choose_column(schema: Any, wanted: str | None) -> tuple[str, Callable[[Any], Content]]:
    usable = {field.name: use for field in schema if (use := _usage(field)) is not None}
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


def _usage(field: Any) -> tuple[str, Callable[[Any], Content]] | None:
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
        if pa.types.is_integer(kind):
            return field.name, _pixels_of
    return None


def _file_of(value: Any) -> Content:
    return read_image(BytesIO(value.as_py())) if value.is_valid else _MISSING


def _pixels_of(value: Any) -> Content:
    """Of a flat list, or of a list of rows."""
    if not value.is_valid:
        return _MISSING
    try:
        return image_of(np.array(value.as_py()))
    except ValueError:
        return Failure("invalid_pixels", "the rows of this image differ in length")
