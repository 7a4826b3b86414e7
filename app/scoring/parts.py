"""What is kept on the disk: parts of the table while a run goes on, then the table itself.

Every part is written whole or not at all, under the number of its chunk, so that a run that is
killed at any moment goes on with the chunks that have none. A manifest says what the parts belong
to. At the end they are joined in order; the table takes its name as the very last step.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import UsageError
from model.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Rows of the finished table that are in memory together.
GROUP_ROWS = 65_536
# Keys in the metadata of a part, for its failures, and of the table, for what it is; both JSON.
FAILURES_KEY = b"failures"
_RUN_KEY = b"dropserve"


class Part(NamedTuple):
    """The part of the table that a chunk of images makes.

    Attributes:
        number: of the chunk.
        rows: how many images it has, those without an answer included.
        content: a Parquet file: a row for each answer, and in its metadata the failures.
        failures: `row`, `source`, `code` and `message` of each image without an answer.
    """

    number: int
    rows: int
    content: bytes
    failures: list[dict[str, Any]]


class OutputExistsError(UsageError):
    """The table is there already, from another run."""


def failures_path(output: Path) -> Path:
    """Next to `results.parquet` it is `results.errors.jsonl`."""
    return output.with_suffix(".errors.jsonl")


class Parts:
    """The folder of an unfinished run, next to its output.

    Args:
        output: where the table goes.
        manifest: what the run is about: only a run with an equal one is continued.
    """

    def __init__(self, output: Path, manifest: Mapping[str, Any]) -> None:
        self._output = output
        self._manifest = manifest
        self.folder = output.with_name(f"{output.name}.parts")
        self._manifest_path = self.folder / "manifest.json"

    def read_finished(self) -> dict[str, Any] | None:
        """The tally of an earlier run with the same manifest that was finished.

        Raises:
            OutputExistsError: there is a table of something else.
        """
        if not self._output.exists():
            return None
        try:
            metadata = pq.read_schema(self._output).metadata or {}
            written = json.loads(metadata.get(_RUN_KEY, b"{}"))
        except (pa.ArrowException, OSError, ValueError):
            written = {}
        if written.get("run") != self._manifest:
            raise OutputExistsError(
                f"{self._output} exists, and holds something else; name another file, or replace "
                "it with --overwrite"
            )
        tally: dict[str, Any] = written["tally"]
        return tally

    @contextmanager
    def open(self, *, start_anew: bool = False) -> Iterator[None]:
        """Takes the folder for this run, and makes or checks its manifest.

        Args:
            start_anew: forget the table and the parts of earlier runs.

        Raises:
            UsageError: another run uses it, or left parts of something else in it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            _lock(lock, self._output)
            if start_anew:
                for old in (self._manifest_path, self._output, failures_path(self._output)):
                    old.unlink(missing_ok=True)
            if not self._manifest_path.exists():
                # What a run without a manifest left belongs to nothing.
                for old in self.folder.glob("*.parquet"):
                    old.unlink()
                content = json.dumps(self._manifest, indent=2).encode()
                write_atomically(self._manifest_path, content)
            earlier = json.loads(self._manifest_path.read_text())
            if earlier != self._manifest:
                changes = [
                    f"{key} was {earlier.get(key)} and is {value}"
                    for key, value in self._manifest.items()
                    if earlier.get(key) != value and key != "digest"
                ]
                what = "; ".join(changes) or "files of the input have changed"
                raise UsageError(
                    f"an unfinished run for {self._output} asked for something else ({what}); "
                    "finish that, name another file, or start anew with --overwrite"
                )
            yield

    def write(self, number: int, content: bytes) -> None:
        """Keeps a part."""
        write_atomically(self._path(number), content)

    def count_failures(self, number: int, rows: int) -> int | None:
        """Of a part that is there and whole the images that failed; None: it has to be made."""
        try:
            table = pq.ParquetFile(self._path(number))
        except (pa.ArrowException, OSError):
            return None
        with table:
            failed = len(_failures_in(table))
            return failed if table.metadata.num_rows + failed == rows else None

    def join(self, parts: int, tally: Mapping[str, int]) -> None:
        """Makes the table and the list of failures from parts 0 to `parts`, and removes them."""
        listed = failures_path(self._output)
        table, failures = (
            path.with_name(f".{path.name}.joining") for path in (self._output, listed)
        )
        try:
            with failures.open("w", encoding="utf-8") as lines:
                self._join(parts, tally, table, lines)
            if failures.stat().st_size:
                failures.replace(listed)
            else:
                listed.unlink(missing_ok=True)
            table.replace(self._output)
        finally:
            for path in (table, failures):
                path.unlink(missing_ok=True)
        # The manifest first: without it, what is left belongs to nothing.
        self._manifest_path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

    def _join(self, parts: int, tally: Mapping[str, int], path: Path, lines: IO[str]) -> None:
        with pq.ParquetFile(self._path(0)) as first:
            schema = first.schema_arrow
        document = json.dumps({"run": self._manifest, "tally": tally})
        schema = schema.with_metadata({_RUN_KEY: document.encode()})
        words = [each.name for each in schema if pa.types.is_dictionary(each.type)]
        waiting: list[pa.Table] = []
        rows = 0
        with pq.ParquetWriter(path, schema, use_dictionary=words, compression="zstd") as writer:
            for number in range(parts):
                with pq.ParquetFile(self._path(number)) as part:
                    lines.writelines(json.dumps(each) + "\n" for each in _failures_in(part))
                    waiting.append(part.read(use_threads=False).replace_schema_metadata(None))
                    rows += part.metadata.num_rows
                while rows >= GROUP_ROWS or (number == parts - 1 and rows):
                    table = pa.concat_tables(waiting).unify_dictionaries()
                    writer.write_table(table.slice(0, GROUP_ROWS), GROUP_ROWS)
                    waiting = [table.slice(GROUP_ROWS)]
                    rows = waiting[0].num_rows
        with path.open("rb") as file:
            os.fsync(file.fileno())

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"


def _failures_in(part: pq.ParquetFile) -> list[dict[str, Any]]:
    failures: list[dict[str, Any]] = json.loads(part.schema_arrow.metadata[FAILURES_KEY])
    return failures


def _lock(file: IO[str], output: Path) -> None:
    """For as long as the file is open; the system lets go of it when the process is killed."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"another run is writing {output}; wait for it, or stop it") from error
