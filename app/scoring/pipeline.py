"""The steps from a file to the table, as functions over record batches, for one machine or many.

`read` -> `prepare` -> `predict` -> `parts.write`: a batch is a block of the input, with a row for
each of its images, in order. Where an image has no answer, `code` and `message` say why.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.errors import ApiError
from app.inference.jobs import draw_seed
from app.inference.reading import read_picture
from app.inference.served_checkpoint import load_served_checkpoint
from app.scoring.answers import answer_columns, table_schema
from app.scoring.question import Question
from app.scoring.readers import Failure, Item, UnreadableError, failure_of, open_images
from app.scoring.sources import PICTURE, Block, Piece, open_file
from model.digits.preprocessing import follow_convention
from model.engines import build_engine
from model.engines.protocol import Engine
from model.files import printable
from model.layered import InputSpec
from model.literals import SIDE
from model.sampling.masks import Passes
from model.uncertainty.calibration import Calibration, read_calibration
from model.uncertainty.statistics import summarise_images

_ROW = [("row", pa.int64()), ("source", pa.string())]
_ERROR = [("code", pa.string()), ("message", pa.string())]
# Images as they were read: a file, or the brightness of height x width pixels.
_IMAGE = [("image", pa.binary()), ("height", pa.int32()), ("width", pa.int32())]
BATCH_BYTES = 16 * 2**20
_CHANGED = Failure("unreadable_file", "the file has changed since it was counted")


class Network(NamedTuple):
    """What predicts; any thread may use it."""

    version: str
    engine: Engine
    calibration: Calibration
    labels: tuple[str, ...]


def load_network(question: Question) -> Network:
    """Loads the network that the settings name.

    Raises:
        ModelError: it cannot be used.
    """
    settings = question.settings
    checkpoint = load_served_checkpoint(settings)
    engine = build_engine(checkpoint.network, settings.device, settings.precision)
    calibration = read_calibration(checkpoint.calibration, "mc", question.parameters.passes)
    return Network(checkpoint.version, engine, calibration, tuple(checkpoint.network.config.labels))


def read(
    blocks: Iterable[Block], column: str | None, spec: InputSpec | None = None
) -> Iterator[pa.RecordBatch]:
    """The images of blocks, each in one batch, or in several if it takes much memory.

    Args:
        blocks: each is drawn when its first batch is asked for.
        column: of Parquet files; None: the one that holds images.
        spec: what the network takes; None: pictures of digits.
    """
    with ExitStack() as opened:
        files = _Files(column, spec, opened)
        for block in blocks:
            row, size = block.first_row, 0
            items: list[tuple[Any, ...]] = []
            for source, content in chain.from_iterable(map(files.read, block.pieces)):
                cells: tuple[Any, ...] = (content, None, None, None, None)
                if isinstance(content, np.ndarray):
                    cells = (content.tobytes(), *content.shape, None, None)
                elif isinstance(content, Failure):
                    cells = (None, None, None, *content)
                items.append((printable(source), *cells))
                size += len(cells[0] or b"")
                last = row + len(items)
                if size >= BATCH_BYTES or last == block.first_row + block.rows:
                    columns = [range(row, last), *zip(*items, strict=True)]
                    yield _batch(columns, [*_ROW, *_IMAGE, *_ERROR])
                    row, size, items = last, 0, []


class _Files:
    """Reads pieces; a file stays open as long as they go on in it."""

    def __init__(self, column: str | None, spec: InputSpec | None, opened: ExitStack) -> None:
        self._wanted, self._opened = (column, spec), opened
        self._images: Iterator[Item] = iter(())
        self._next = ("", 0)  # the file that is open, and the number of its next image

    def read(self, piece: Piece) -> Iterator[Item]:
        index, failure = piece.start, piece.failure
        try:
            if not failure and self._next != (piece.path, piece.start):
                self._opened.close()
                file = self._opened.enter_context(open_file(piece.path))
                images = open_images(file, piece.path, piece.kind, *self._wanted)
                self._images = images.read(piece.start)
            self._next = (piece.path, piece.stop)
            for item in islice(self._images, 0 if failure else piece.stop - index):
                yield item
                index += 1
        except (UnreadableError, OSError) as error:
            failure, self._next = failure_of(error), ("", 0)
        is_one = piece.kind == PICTURE or piece.failure
        for missing in range(index, piece.stop):
            yield piece.path if is_one else f"{piece.path}[{missing}]", failure or _CHANGED


def prepare(batch: pa.RecordBatch, question: Question) -> pa.RecordBatch:
    """What the network sees, as the server has it from the same bytes or pixels."""
    mode, most = question.parameters.preprocess, question.settings.max_pixels
    shape, dtype = _form(question.spec)
    pixels = np.zeros((batch.num_rows, *shape), dtype)
    several = [False] * batch.num_rows
    errors = list(zip(*(batch[name].to_pylist() for name, _ in _ERROR), strict=True))
    height, width = batch["height"], batch["width"]
    is_small = pc.fill_null(pc.and_(pc.equal(height, SIDE), pc.equal(width, SIDE)), False)
    small = np.flatnonzero(is_small)
    # All of MNIST's form at once.
    arrays = b"".join(batch["image"].filter(is_small).to_pylist())
    images = np.frombuffer(arrays, np.uint8).reshape(-1, SIDE, SIDE)
    is_plain = follow_convention(images) if mode == "auto" else np.ones(len(images), np.bool_)
    if len(small):  # never of another network's numbers, which are one row
        pixels[small[is_plain]] = images[is_plain]
    for row in np.delete(np.arange(batch.num_rows), small[is_plain]).tolist():
        image = batch["image"][row].as_py()
        try:
            if height[row].is_valid:
                size = height[row].as_py(), width[row].as_py()
                image = np.frombuffer(image, dtype).reshape(shape if question.spec else size)
            if image is not None:
                pixels[row], boxes = read_picture(image, mode, question.spec, max_pixels=most)
                several[row] = bool(boxes)
        except ApiError as refused:
            errors[row] = (refused.code, refused.message)
    codes, messages = zip(*errors, strict=True)
    kind = pa.binary(pixels.nbytes // len(pixels))
    seen = pa.Array.from_buffers(kind, len(pixels), [None, pa.py_buffer(pixels)])
    columns = [batch["row"], batch["source"], seen, several, codes, messages]
    fields = [*_ROW, ("pixels", kind), ("several_digits", pa.bool_()), *_ERROR]
    return _batch(columns, fields)


def _form(spec: InputSpec | None) -> tuple[tuple[int, ...], "np.dtype[Any]"]:
    """The shape and the type of what the network sees of one image."""
    return (
        ((SIDE, SIDE), np.dtype(np.uint8)) if spec is None else (spec.shape, np.dtype(spec.dtype))
    )


def predict(batch: pa.RecordBatch, question: Question, network: Network) -> pa.RecordBatch:
    """The columns of the table, null where there is no answer, with `code` and `message`."""
    answered = batch.filter(batch["code"].is_null())
    asked, columns = question.parameters, {}
    if answered.num_rows:
        seeds = [draw_seed() if asked.seed is None else asked.seed for _ in range(len(answered))]
        shape, dtype = _form(question.spec)
        pixels = np.frombuffer(b"".join(answered["pixels"].to_pylist()), dtype)
        passes = Passes(asked.passes, 0, asked.estimator)
        probs = network.engine.sample_images(pixels.reshape(-1, *shape), seeds, passes)
        several = answered["several_digits"].to_pylist()
        summaries = summarise_images(probs)
        columns = answer_columns(summaries, several, network.calibration, network.labels)
        columns["seed"] = pa.array(seeds, pa.int64())
    numbers = count()
    codes = batch["code"].to_pylist()
    places = pa.array([None if code else next(numbers) for code in codes], pa.int32())
    # Where there is no answer, also those columns are null that are not in the table.
    schema = pa.schema([*table_schema(network.labels), *map(pa.field, *zip(*_ERROR, strict=True))])
    arrays = [
        batch[field.name]
        if field.name in batch.schema.names
        else columns.get(field.name, pa.nulls(0, field.type)).take(places)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def _batch(columns: Sequence[Any], fields: Sequence[tuple[str, Any]]) -> pa.RecordBatch:
    schema = pa.schema(fields)
    arrays = [
        each if isinstance(each, pa.Array) else pa.array(each, kind)
        for each, kind in zip(columns, schema.types, strict=True)
    ]
    return pa.record_batch(arrays, schema=schema)
