"""A chunk of images -> a part of the table: what one process or Ray actor does, on one thread."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from app.errors import ApiError
from app.inference.jobs import draw_seed
from app.inference.reading import read_picture
from app.inference.served_checkpoint import load_served_checkpoint
from app.scoring.answers import answer_columns, table_schema
from app.scoring.folders import printable
from app.scoring.items import FAILURES_KEY, Failure, Image, Item, Reader, UnreadableError
from app.scoring.question import Question
from app.scoring.sources import Chunk, Piece, cannot_be_read, open_reader
from model.digits.preprocessing import Preprocessed
from model.engines import build_engine
from model.engines.protocol import PassRange
from model.sampling.masks import Passes
from model.uncertainty.calibration import read_calibration
from model.uncertainty.statistics import Summaries, summarise_together

T = TypeVar("T")

# Passes that are in memory together: those of as many images as fit, but of one at least.
_PASSES_AT_A_TIME = 3200
_ROWS_BETWEEN_LOOKS = 16


class Part(NamedTuple):
    """A part of the table.

    Attributes:
        content: a Parquet file: a row for each answer, and in its metadata the failures.
        failures: `row`, `source`, `code` and `message` of each image without an answer.
    """

    content: bytes
    failures: list[dict[str, Any]]


class Stopped(Exception):  # noqa: N818  asked for, and no error
    """The chunk was given up half way."""


class _Seen(NamedTuple):
    """An image that can be answered."""

    row: int
    source: str
    image: Preprocessed


class _Answered(NamedTuple):
    """Images that were answered together; their passes are forgotten."""

    rows: list[int]
    sources: list[str]
    several_digits: list[bool]
    seeds: list[int]
    summaries: Summaries


class Scorer:
    """Scores chunks, one after the other, with one network on one thread."""

    def __init__(self, question: Question) -> None:
        torch.set_num_threads(1)
        pa.set_cpu_count(1)
        settings = question.settings
        checkpoint = load_served_checkpoint(settings)
        self._question = question
        self._engine = build_engine(checkpoint.network, settings.device, settings.precision)
        self._calibration = read_calibration(checkpoint.calibration, "mc")
        self._labels = checkpoint.network.config.labels
        self._schema = table_schema(len(self._labels))
        self._reader: tuple[tuple[str, str], Reader] | None = None

    def score(self, chunk: Chunk, should_stop: Callable[[], bool] = lambda: False) -> Part:
        """Answers the images of a chunk.

        Args:
            chunk: where they are.
            should_stop: asked from time to time.

        Raises:
            Stopped: it said yes.
        """
        seen: list[_Seen] = []
        answered: list[_Answered] = []
        failures: list[dict[str, Any]] = []
        at_a_time = max(1, _PASSES_AT_A_TIME // self._question.passes)
        for row, (source, image) in enumerate(self._items(chunk), chunk.first_row):
            if row % _ROWS_BETWEEN_LOOKS == 0 and should_stop():
                raise Stopped
            found = self._look_at(image)
            if isinstance(found, Failure):
                failures.append({"row": row, "source": printable(source), **found._asdict()})
                continue
            seen.append(_Seen(row, printable(source), found))
            if len(seen) == at_a_time:
                answered.append(self._answer(seen))
                seen = []
        if seen:
            answered.append(self._answer(seen))
        metadata = {FAILURES_KEY: json.dumps(failures).encode()}
        table = self._tabulate(answered).replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, use_dictionary=False, compression="none")
        return Part(sink.getvalue().to_pybytes(), failures)

    def _answer(self, seen: Sequence[_Seen]) -> _Answered:
        asked = self._question
        seeds = [draw_seed() if asked.seed is None else asked.seed for _ in seen]
        images = self._engine.prepare(
            [one.image.pixels for one in seen],
            [Passes(asked.passes, seed, asked.estimator) for seed in seeds],
        )
        probs = self._engine.sample([PassRange(image, 0, asked.passes) for image in images])
        return _Answered(
            rows=[one.row for one in seen],
            sources=[one.source for one in seen],
            several_digits=[bool(one.image.boxes) for one in seen],
            seeds=seeds,
            summaries=summarise_together(probs),
        )

    def _tabulate(self, answered: Sequence[_Answered]) -> pa.Table:
        """A whole chunk's columns at once: Arrow's calls cost more than its work."""
        if not answered:
            return self._schema.empty_table()
        rows, sources, several_digits, seeds, summaries = zip(*answered, strict=True)
        columns = answer_columns(
            summaries, _joined(several_digits), self._calibration, self._labels
        )
        columns["row"] = pa.array(_joined(rows), pa.int64())
        columns["source"] = pa.array(_joined(sources), pa.string())
        columns["seed"] = pa.array(_joined(seeds), pa.int64())
        return pa.table([columns[name] for name in self._schema.names], self._schema)

    def _look_at(self, image: Image | Failure) -> Preprocessed | Failure:
        """What the network sees, as the server has it from the same bytes or pixels."""
        if isinstance(image, Failure):
            return image
        asked = self._question
        try:
            return read_picture(image, asked.preprocess, max_pixels=asked.settings.max_pixels)
        except ApiError as error:
            return Failure(error.code, error.message)

    def _items(self, chunk: Chunk) -> Iterator[Item]:
        for piece in chunk.pieces:
            index = piece.start
            try:
                for item in self._open(piece).read(piece.start, piece.stop):
                    yield item
                    index += 1
            except (UnreadableError, OSError) as error:
                known = error if isinstance(error, UnreadableError) else cannot_be_read(error)
                for missing in range(index, piece.stop):
                    yield Item(self._name(piece, missing), known.failure)

    def _open(self, piece: Piece) -> Reader:
        """The reader of the piece's file, which stays open: the next piece often goes on in it."""
        if piece.failure is not None:
            raise UnreadableError(*piece.failure)
        key = (piece.path, piece.kind)
        if self._reader is None or self._reader[0] != key:
            self.close()
            self._reader = key, open_reader(piece.path, piece.kind, self._question.column)
        return self._reader[1]

    def _name(self, piece: Piece, index: int) -> str:
        is_open = self._reader is not None and self._reader[0] == (piece.path, piece.kind)
        return self._reader[1].name(index) if is_open and self._reader else piece.path

    def close(self) -> None:
        """Closes the file that is open."""
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None


def _joined(lists: Sequence[list[T]]) -> list[T]:
    return list(itertools.chain.from_iterable(lists))
