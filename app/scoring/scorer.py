"""A chunk of images -> a part of the table: what one process or Ray actor does, on one thread."""

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import ApiError
from app.inference.jobs import draw_seed
from app.inference.reading import read_picture
from app.inference.served_checkpoint import load_served_checkpoint
from app.scoring.answers import answer_columns, table_schema
from app.scoring.folders import printable
from app.scoring.items import Content, Failure, Item, Reader, UnreadableError, failure_of
from app.scoring.options import ScoreOptions
from app.scoring.parts import FAILURES_KEY, Part
from app.scoring.sources import Chunk, Piece, open_reader
from model.digits.preprocessing import Preprocessed
from model.engines import build_engine
from model.engines.protocol import sample_probs
from model.sampling.masks import Passes
from model.uncertainty.calibration import read_calibration
from model.uncertainty.statistics import Summary, summarise


class Scorer:
    """Scores chunks, one after the other, with one network on one thread."""

    def __init__(self, options: ScoreOptions) -> None:
        pa.set_cpu_count(1)
        settings = options.settings
        checkpoint = load_served_checkpoint(settings)
        self.version = checkpoint.version
        self._options = options
        self._engine = build_engine(checkpoint.network, settings.device, settings.precision)
        self._calibration = read_calibration(
            checkpoint.calibration, "mc", options.parameters.passes
        )
        self._labels = checkpoint.network.config.labels
        self._schema = table_schema(len(self._labels))
        self._reader: Reader | None = None
        self._file = ("", "")  # its path and kind

    def score(self, chunk: Chunk) -> Part:
        """Answers the images of a chunk."""
        rows: list[int] = []
        sources: list[str] = []
        found: list[Preprocessed] = []
        failures: list[dict[str, Any]] = []
        for row, (source, content) in enumerate(self._items(chunk), chunk.first_row):
            image = self._preprocess(content)
            if isinstance(image, Failure):
                failures.append({"row": row, "source": printable(source), **image._asdict()})
            else:
                rows.append(row)
                sources.append(printable(source))
                found.append(image)
        seed = self._options.parameters.seed
        seeds = [draw_seed() if seed is None else seed for _ in found]
        table = self._schema.empty_table()
        if found:
            summaries = [self._summarise(*each) for each in zip(found, seeds, strict=True)]
            # A whole chunk's columns at once: Arrow's calls cost more than its work.
            columns = answer_columns(
                summaries, [bool(image.boxes) for image in found], self._calibration, self._labels
            )
            columns |= {"row": rows, "source": sources, "seed": seeds}
            table = pa.table([columns[name] for name in self._schema.names], self._schema)
        sink = pa.BufferOutputStream()
        pq.write_table(
            table.replace_schema_metadata({FAILURES_KEY: json.dumps(failures).encode()}),
            sink,
            use_dictionary=False,
            compression="none",
        )
        return Part(chunk.number, chunk.rows, sink.getvalue().to_pybytes(), failures)

    def _summarise(self, image: Preprocessed, seed: int) -> Summary:
        asked = self._options.parameters
        passes = Passes(asked.passes, seed, asked.estimator)
        return summarise(sample_probs(self._engine, image.pixels, passes))

    def _preprocess(self, content: Content) -> Preprocessed | Failure:
        """What the network sees, as the server has it from the same bytes or pixels."""
        if isinstance(content, Failure):
            return content
        mode, settings = self._options.parameters.preprocess, self._options.settings
        try:
            return read_picture(content, mode, max_pixels=settings.max_pixels)
        except ApiError as error:
            return Failure(error.code, error.message)

    def _items(self, chunk: Chunk) -> Iterator[Item]:
        for piece in chunk.pieces:
            index, reader = piece.start, None
            try:
                reader = self._open(piece)
                for item in reader.read(piece.start, piece.stop):
                    yield item
                    index += 1
            except (UnreadableError, OSError) as error:
                failure = failure_of(error)
                for missing in range(index, piece.stop):
                    yield Item(reader.name(missing) if reader else piece.path, failure)

    def _open(self, piece: Piece) -> Reader:
        """The reader of the piece's file, which stays open: the next piece often goes on in it."""
        if piece.failure is not None:
            raise UnreadableError(*piece.failure)
        file = (piece.path, piece.kind)
        if self._reader is None or self._file != file:
            self.close()
            self._reader, self._file = open_reader(*file, self._options.column), file
        return self._reader

    def close(self) -> None:
        """Closes the file that is open."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
