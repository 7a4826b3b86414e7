"""What is kept on the disk: parts of the table while a run goes on, then the table itself.

There is a part for each block, written whole or not at all, under the number of its first row, so
that a run that is killed at any moment goes on with the blocks that have none. A manifest says what
the parts belong to. They are joined in order; the table takes its name as the last step.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import feather

from app.errors import UsageError
from model.files import write_atomically

_GROUP_PARTS = 16  # that are in memory together, and make a row group of the table
_RUN_KEY = b"dropserve"  # in the metadata of the table, for what it is, as JSON
_ERROR = ["code", "message"]  # in a part, why an image has no answer; the table has neither


def failures_path(output: Path) -> Path:
    """Next to `results.parquet` it is `results.errors.jsonl`."""
    return output.with_suffix(".errors.jsonl")


def failures_in(part: pa.RecordBatch) -> list[dict[str, Any]]:
    """`row`, `source`, `code` and `message` of each image without an answer."""
    failed = part.select(["row", "source", *_ERROR]).filter(part["code"].is_valid())
    return list(failed.to_pylist())


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
        self._document = json.dumps(manifest).encode()

    def count_finished(self) -> int | None:
        """Rows of the table, if a run with the same manifest was finished.

        Raises:
            UsageError: there is a table of something else.
        """
        if not self._output.exists():
            return None
        with suppress(pa.ArrowException, KeyError, OSError):
            found = pq.read_metadata(self._output)
            if found.metadata[_RUN_KEY] == self._document:
                return int(found.num_rows)
        raise UsageError(
            f"{self._output} exists, and holds something else; name another file, or replace it "
            "with --overwrite"
        )

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
                import fcntl

                # The system lets go of it when the process is killed.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except ImportError:  # Windows
                pass
            except BlockingIOError as error:
                busy = f"another run is writing {self._output}; wait for it, or stop it"
                raise UsageError(busy) from error
            if start_anew:
                for old in (self._manifest_path, self._output, failures_path(self._output)):
                    old.unlink(missing_ok=True)
            kept = list(self.folder.glob("*.arrow"))
            if not kept or not self._manifest_path.exists():
                # Parts without a manifest belong to nothing, and so does one without parts.
                for old in kept:
                    old.unlink()
                write_atomically(self._manifest_path, self._document)
            earlier = json.loads(self._manifest_path.read_bytes())
            changes = [key for key in earlier if earlier[key] != self._manifest.get(key)]
            if changes:
                raise UsageError(
                    f"an unfinished run for {self._output} had another {', '.join(changes)}; "
                    "finish that, name another file, or start anew with --overwrite"
                )
            yield

    def write(self, part: pa.RecordBatch) -> None:
        """Keeps a part, whole or not at all."""
        path = self._path(part["row"][0].as_py())
        unfinished = path.with_suffix(".unfinished")
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_file(sink, part.schema) as file:
            file.write(part)
        unfinished.replace(path)

    def _path(self, row: int) -> Path:
        return self.folder / f"{row:012d}.arrow"

    def read(self, row: int) -> pa.Table | None:
        """The part that begins with a row; None: its block has to be scored."""
        with suppress(pa.ArrowException, OSError):
            return feather.read_table(self._path(row))
        return None

    def _read_all(self, writes: Iterable[None]) -> Iterator[pa.Table]:
        row = 0
        for _ in chain(writes, [None]):  # also if every part is there already
            while (part := self.read(row)) is not None:
                yield part
                row += len(part)
        if row != self._manifest["images"]:
            raise OSError(f"what follows on row {row} cannot be read; run the same command again")

    def join(self, writes: Iterable[None]) -> None:
        """Makes the table and the list of failures from the parts, and removes these.

        Args:
            writes: each item writes a missing part, in any order. What can be joined then is.
        """
        table, failures = self.folder / "table", self.folder / "failures"
        parts = self._read_all(writes)
        first = next(parts)
        parts = chain([first], parts)
        fields = [each for each in first.schema if each.name not in _ERROR]
        schema = pa.schema(fields, {_RUN_KEY: self._document})
        words = [each.name for each in fields if pa.types.is_dictionary(each.type)]
        with (
            pq.ParquetWriter(table, schema, use_dictionary=words, compression="zstd") as writer,
            failures.open("w", encoding="utf-8") as lines,
        ):
            while some := list(islice(parts, _GROUP_PARTS)):
                group = pa.concat_tables(some)
                lines.writelines(json.dumps(each) + "\n" for each in failures_in(group))
                answered = group.select(schema.names).filter(group["code"].is_null())
                writer.write_table(answered.unify_dictionaries())
        with table.open("rb") as file:
            os.fsync(file.fileno())
        failures_path(self._output).unlink(missing_ok=True)
        if failures.stat().st_size:
            failures.replace(failures_path(self._output))
        table.replace(self._output)
        # The manifest first: without it, what is left belongs to nothing.
        self._manifest_path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
