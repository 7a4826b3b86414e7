"""The steps from a file to the table, as functions over record batches, for one machine or many.

`read` -> `prepare` -> `predict` -> `parts.write`: a batch is a block of the input, with a row for
each of its images, in order. Where an image has no answer, `code` and `message` say why.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from app.errors import ApiError
from app.inference.jobs import draw_seed
from app.inference.reading import read_picture
from app.inference.served_checkpoint import load_served_checkpoint
from app.scoring.answers import answer_columns, table_schema
from app.scoring.question import Question
from app.scoring.readers import Failure, Item, UnreadableError, failure_of, open_images
from app.scoring.sources import PICTURE, Block, Piece, open_file
from model.engines import build_engine
from model.engines.protocol import Engine, sample_probs
from model.files import printable
from model.literals import SIDE
from model.sampling.masks import Passes
from model.uncertainty.calibration import Calibration, read_calibration
from model.uncertainty.statistics import summarise

_ROW = [("row", pa.int64()), ("source", pa.string())]
_ERROR = [("code", pa.string()), ("message", pa.string())]
# Images as they were read: a file, or the brightness of height x width pixels.
_IMAGE = [("image", pa.binary()), ("height", pa.int32()), ("width", pa.int32())]
# Images as the network sees them.
_SEEN = [("pixels", pa.binary(SIDE * SIDE)), ("several_digits", pa.bool_())]
BATCH_BYTES = 16 * 2**20
_NO_ERROR = (None, None)
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


def read(blocks: Iterable[Block], column: str | None) -> Iterator[pa.RecordBatch]:
    """The images of blocks, each in one batch, or in several if it takes much memory.

    Args:
        blocks: each is drawn when its first batch is asked for.
        column: of Parquet files; None: the one that holds images.
    """
    with ExitStack() as opened:
        files = _Files(column, opened)
        for block in blocks:
            row, size = block.first_row, 0
            rows: list[tuple[Any, ...]] = []
            for source, content in chain.from_iterable(map(files.read, block.pieces)):
                cells: tuple[Any, ...] = (None, None, None, *content)
                if isinstance(content, bytes):
                    cells = (content, None, None, *_NO_ERROR)
                elif isinstance(content, np.ndarray):
                    cells = (content.tobytes(), *content.shape, *_NO_ERROR)
                rows.append((row, printable(source), *cells))
                row, size = row + 1, size + len(cells[0] or b"")
                if size >= BATCH_BYTES or row == block.first_row + block.rows:
                    yield _batch(rows, [*_ROW, *_IMAGE, *_ERROR])
                    rows, size = [], 0


class _Files:
    """Reads pieces; a file stays open as long as they go on in it."""

    def __init__(self, column: str | None, opened: ExitStack) -> None:
        self._column, self._opened = column, opened
        self._images: Iterator[Item] = iter(())
        self._next = ("", 0)  # the file that is open, and the number of its next image

    def read(self, piece: Piece) -> Iterator[Item]:
        index, failure = piece.start, piece.failure
        try:
            if not failure and self._next != (piece.path, piece.start):
                self._opened.close()
                file = self._opened.enter_context(open_file(piece.path))
                images = open_images(file, piece.path, piece.kind, self._column)
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
    rows: list[tuple[Any, ...]] = []
    read = (batch[name].to_pylist() for name, _ in [*_IMAGE, *_ERROR])
    for image, height, width, *error in zip(*read, strict=True):
        seen: tuple[Any, ...] = (None, None, *error)
        try:
            if height is not None:
                image = np.frombuffer(image, np.uint8).reshape(height, width)
            if image is not None:
                pixels, boxes = read_picture(image, mode, max_pixels=most)
                seen = (pixels.tobytes(), bool(boxes), *_NO_ERROR)
        except ApiError as refused:
            seen = (None, None, refused.code, refused.message)
        rows.append(seen)
    made = _batch(rows, [*_SEEN, *_ERROR])
    fields = [*_ROW, *_SEEN, *_ERROR]
    return pa.record_batch([batch["row"], batch["source"], *made.columns], schema=pa.schema(fields))


def predict(batch: pa.RecordBatch, question: Question, network: Network) -> pa.RecordBatch:
    """The columns of the table, null where there is no answer, with `code` and `message`."""
    answered = batch.filter(batch["code"].is_null())
    asked, columns = question.parameters, {}
    if answered.num_rows:
        seeds, summaries = [], []
        for pixels in answered["pixels"].to_pylist():
            seeds.append(draw_seed() if asked.seed is None else asked.seed)
            image = np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE)
            passes = Passes(asked.passes, seeds[-1], asked.estimator)
            summaries.append(summarise(sample_probs(network.engine, image, passes)))
        # All columns at once: Arrow's calls cost more than its work.
        several = answered["several_digits"].to_pylist()
        columns = answer_columns(summaries, several, network.calibration, network.labels)
        columns["seed"] = pa.array(seeds, pa.int64())
    numbers = count()
    codes = batch["code"].to_pylist()
    places = pa.array([None if code else next(numbers) for code in codes], pa.int32())
    # Where there is no answer, also those columns are null that are not in the table.
    schema = pa.schema(
        [*table_schema(len(network.labels)), *map(pa.field, *zip(*_ERROR, strict=True))]
    )
    arrays = [
        batch[field.name]
        if field.name in batch.schema.names
        else columns.get(field.name, pa.nulls(0, field.type)).take(places)
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def _batch(rows: list[tuple[Any, ...]], fields: list[tuple[str, Any]]) -> pa.RecordBatch:
    schema = pa.schema(fields)
    columns = zip(zip(*rows, strict=True), schema.types, strict=True)
    return pa.record_batch([pa.array(each, kind) for each, kind in columns], schema=schema)
