"""Parts of the table: a run that was killed goes on, and the finished table is not made again."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import UsageError
from app.scoring import parts, sources
from app.scoring.parts import FAILURES_KEY
from model.files import write_atomically
from tests.app.scoring.inputs import PIXELS, write_idx
from tests.app.scoring.runs import failures, rows, score
from tests.conftest import SAMPLES


def test_a_finished_table_is_not_made_again_nor_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table.parquet"
    assert score(SAMPLES / "7.png", "--passes", "2", output=output) == 0
    before = output.read_bytes()

    assert score(SAMPLES / "7.png", "--passes", "2", output=output) == 0
    assert "is there already" in capsys.readouterr().err
    assert score(SAMPLES / "7.png", "--passes", "3", output=output) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [output]

    assert score(SAMPLES / "7.png", "--passes", "3", "--overwrite", output=output) == 0
    assert output.read_bytes() != before


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 5)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("writes", [1, 3, 7])
def test_a_run_goes_on_where_it_was_killed(
    small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    plain, output = tmp_path / "plain.parquet", tmp_path / "table.parquet"
    arguments = (source, SAMPLES / "none.png", "--seed", "1", "--passes", "2")
    assert score(*arguments, output=plain) == 1
    written: list[Path] = []

    def write_some(path: Path, content: bytes) -> None:
        if len(written) == writes:
            raise Killed
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(parts, "write_atomically", write_some)
    with pytest.raises(Killed):
        score(*arguments, output=output)
    monkeypatch.setattr(parts, "write_atomically", write_atomically)
    assert not output.exists()
    done = set(output.with_name("table.parquet.parts").glob("*.parquet"))
    assert len(done) == writes - 1  # the first is the manifest

    assert score(*arguments[:-1], "3", output=output) == 2  # other settings
    assert score(*arguments, output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(len(PIXELS)))
    assert output.read_bytes() == plain.read_bytes()
    assert failures(output) == failures(plain)


# The folder alone

MANIFEST = {"dropserve": "1", "passes": 2, "digest": "abc"}
SCHEMA = pa.schema(
    [pa.field("row", pa.int64()), pa.field("label", pa.dictionary(pa.int32(), pa.string()))]
)


def part(rows: list[int], failed: list[int] | None = None) -> bytes:
    """A part of the table: its rows, and the rows that failed."""
    listed = [{"row": row, "code": "no_ink"} for row in failed or []]
    labels = pa.array([f"label {row}" for row in rows], pa.string()).dictionary_encode()
    table = pa.table([pa.array(rows, pa.int64()), labels], SCHEMA)
    table = table.replace_schema_metadata({FAILURES_KEY: json.dumps(listed).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "table.parquet"


def test_parts_are_joined_in_order_whatever_the_order_they_were_written_in(output: Path) -> None:
    folder = parts.Parts(output, MANIFEST)
    with folder.open():
        for number, content in ((2, part([5])), (0, part([0, 1])), (1, part([2, 4], [3]))):
            folder.write(number, content)
        folder.join(3, {"images": 6, "failed": 1})

    assert pq.read_table(output).to_pylist() == [
        {"row": row, "label": f"label {row}"} for row in (0, 1, 2, 4, 5)
    ]
    assert failures(output) == [{"row": 3, "code": "no_ink"}]
    assert not folder.folder.exists()
    assert parts.Parts(output, MANIFEST).read_finished() == {"images": 6, "failed": 1}


def test_a_part_that_is_not_whole_has_to_be_made_again(output: Path) -> None:
    folder = parts.Parts(output, MANIFEST)
    with folder.open():
        folder.write(0, part([0, 2], [1]))
        folder.write(1, part([3, 4])[:-9])

        assert folder.count_failures(0, rows=3) == 1
        assert folder.count_failures(0, rows=4) is None
        assert folder.count_failures(1, rows=2) is None
        assert folder.count_failures(2, rows=2) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passes": 3}, "passes was 2 and is 3"),
        ({"digest": "x"}, "files of the input have changed"),
    ],
)
def test_parts_of_something_else_are_kept_and_the_difference_is_named(
    output: Path, change: dict[str, Any], message: str
) -> None:
    with parts.Parts(output, MANIFEST).open():
        parts.Parts(output, MANIFEST).write(0, part([0]))
    other = parts.Parts(output, {**MANIFEST, **change})

    with pytest.raises(UsageError, match=message), other.open():
        pass
    assert other.count_failures(0, rows=1) == 0
    with other.open(start_anew=True):
        assert other.count_failures(0, rows=1) is None


def test_two_runs_do_not_write_one_table(output: Path) -> None:
    with (
        parts.Parts(output, MANIFEST).open(),
        pytest.raises(UsageError, match="another run is writing"),
        parts.Parts(output, MANIFEST).open(),
    ):
        pass
    with parts.Parts(output, MANIFEST).open():
        pass


def test_a_table_of_something_else_is_not_taken_for_the_runs_own(output: Path) -> None:
    assert parts.Parts(output, MANIFEST).read_finished() is None
    output.write_bytes(b"no table")

    with pytest.raises(parts.OutputExistsError, match="--overwrite"):
        parts.Parts(output, MANIFEST).read_finished()
