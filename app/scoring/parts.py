"""What is kept on the disk: parts of the table while a run goes on, then the table itself.

Every part is written whole or not at all, under the number of its first row, so that a run that is
killed at any moment goes on with the blocks whose parts are not all there. A manifest says what the
parts belong to. At the end they are joined in order; the table takes its name as the last step.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from app.errors import UsageError
from model.files import write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

GROUP_ROWS = 65_536  # of the finished table that are in memory together
_RUN_KEY = b"dropserve"  # in the metadata of the table, for what it is, as JSON
_CHANGED = "files of the input have changed"
_ERROR = ["code", "message"]  # in a part, why an image has no answer; the table has neither


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
        self._output, self._manifest = output, manifest
        self.folder = output.with_name(f"{output.name}.parts")
        self._manifest_path = self.folder / "manifest.json"

    def read_finished(self) -> dict[str, Any] | None:
        """The tally of an earlier run with the same manifest that was finished.

        Raises:
            UsageError: there is a table of something else.
        """
        if not self._output.exists():
            return None
        try:
            written = json.loads((pq.read_schema(self._output).metadata or {}).get(_RUN_KEY, "{}"))
        except (pa.ArrowException, OSError, ValueError):
            written = {}
        if written.get("run") != self._manifest:
            raise UsageError(
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
            try:
                if fcntl is not None:  # the system lets go of it when the process is killed
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                busy = f"another run is writing {self._output}; wait for it, or stop it"
                raise UsageError(busy) from error
            if start_anew:
                for old in (self._manifest_path, self._output, failures_path(self._output)):
                    old.unlink(missing_ok=True)
            if not self._manifest_path.exists():
                # What a run without a manifest left belongs to nothing.
                for old in self.folder.glob("*.arrow"):
                    old.unlink()
                content = json.dumps(self._manifest, indent=2).encode()
                write_atomically(self._manifest_path, content)
            earlier = json.loads(self._manifest_path.read_text())
            changes = [
                f"{key} was {earlier.get(key)} and is {value}" if key != "digest" else _CHANGED
                for key, value in self._manifest.items()
                if earlier.get(key) != value
            ]
            if changes:
                raise UsageError(
                    f"an unfinished run for {self._output} asked for something else "
                    f"({'; '.join(changes)}); finish that, name another file, or start anew with "
                    "--overwrite"
                )
            yield

    def path(self, row: int) -> Path:
        """Of the part that begins with a row."""
        return self.folder / f"{row:012d}.arrow"

    def read(self, first: int, last: int) -> Iterator[pa.RecordBatch]:
        """The parts that have a range of rows, in order.

        Raises:
            FileNotFoundError: one is missing.
            pa.ArrowException: one is damaged.
        """
        while first < last:
            with pa.OSFile(str(self.path(first))) as file:
                yield (part := pa.ipc.open_file(file).get_batch(0))
            first += part.num_rows

    def count_failures(self, first: int, last: int) -> int | None:
        """Of a range of rows those that failed; None: they have to be scored."""
        try:
            return sum(len(failures_in(part)) for part in self.read(first, last))
        except (pa.ArrowException, OSError):
            return None

    def join(self, tally: Mapping[str, int]) -> None:
        """Makes the table and the list of failures from the parts, and removes them."""
        listed = failures_path(self._output)
        table, failures = self.folder / "table", self.folder / "failures"
        with failures.open("w", encoding="utf-8") as lines:
            self._join(tally, table, lines)
        if failures.stat().st_size:
            failures.replace(listed)
        else:
            listed.unlink(missing_ok=True)
        table.replace(self._output)
        # The manifest first: without it, what is left belongs to nothing.
        self._manifest_path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _join(self, tally: Mapping[str, int], path: Path, lines: IO[str]) -> None:
        parts = self.read(0, tally["images"])
        first = next(parts)
        document = json.dumps({"run": self._manifest, "tally": tally})
        schema = pa.schema([each for each in first.schema if each.name not in _ERROR])
        schema = schema.with_metadata({_RUN_KEY: document.encode()})
        words = [each.name for each in schema if pa.types.is_dictionary(each.type)]
        waiting = schema.empty_table()
        with pq.ParquetWriter(path, schema, use_dictionary=words, compression="zstd") as writer:
            for part in chain([first], parts):
                lines.writelines(json.dumps(each) + "\n" for each in failures_in(part))
                answered = part.filter(pc.field("code").is_null()).select(schema.names)
                waiting = pa.concat_tables([waiting, pa.Table.from_batches([answered])])
                while len(waiting) >= GROUP_ROWS:
                    writer.write_table(waiting.slice(0, GROUP_ROWS).unify_dictionaries())
                    waiting = waiting.slice(GROUP_ROWS)
            if len(waiting):
                writer.write_table(waiting.unify_dictionaries())
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write(batch: pa.RecordBatch, path: Path) -> None:
    """Keeps a part, whole or not at all."""
    unfinished = path.with_suffix(".unfinished")
    with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    unfinished.replace(path)


def failures_in(part: pa.RecordBatch) -> list[dict[str, Any]]:
    """`row`, `source`, `code` and `message` of each image without an answer."""
    failed = part.select(["row", "source", *_ERROR]).filter(pc.field("code").is_valid())
    listed: list[dict[str, Any]] = failed.to_pylist()
    return listed
