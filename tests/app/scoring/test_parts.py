"""Parts of the table: a run that was killed goes on, and the finished table is not made again."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import UsageError
from app.scoring import parts, sources
from app.scoring.answers import table_schema
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
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "BLOCK_ROWS", 5)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


@pytest.mark.parametrize("writes", [0, 2, 6])
def test_a_run_goes_on_where_it_was_killed(
    small_blocks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    plain, output = tmp_path / "plain.parquet", tmp_path / "table.parquet"
    arguments = (source, SAMPLES / "none.png", "--seed", "1", "--passes", "2")
    assert score(*arguments, output=plain) == 1
    written: list[str] = []

    def write_some(
        self: parts.Parts, batch: pa.RecordBatch, write: Callable[..., None] = parts.Parts.write
    ) -> None:
        if len(written) == writes:
            raise Killed
        written.append(f"{batch['row'][0].as_py():012}.arrow")
        write(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "write", write_some)
        with pytest.raises(Killed):
            score(*arguments, output=output)
    assert not output.exists()
    kept = output.with_name("table.parquet.parts").glob("*.arrow")
    assert {path.name for path in kept} == set(written)

    if writes:
        assert score(*arguments[:-1], "3", output=output) == 2  # other settings
    assert score(*arguments, output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(len(PIXELS)))
    assert output.read_bytes() == plain.read_bytes()
    assert failures(output) == failures(plain)


# The folder alone

LABELS = ("0", "1")
MANIFEST = {"dropserve": "1", "passes": 2, "digest": "abc", "images": 6}


def part(rows: list[int], failed: list[int] | None = None) -> pa.RecordBatch:
    """A part of the table: its rows, and the rows that failed."""
    every = sorted([*rows, *(failed or [])])
    errors = [pa.field("code", pa.string()), pa.field("message", pa.string())]
    arrays = {"row": every, "source": [f"{row}.png" for row in every]}
    for field in table_schema(LABELS):
        value = [0.5, 0.5] if pa.types.is_fixed_size_list(field.type) else 1
        answers = [f"label {row}" if pa.types.is_dictionary(field.type) else value for row in every]
        arrays.setdefault(
            field.name,
            [answer if row in rows else None for row, answer in zip(every, answers, strict=True)],
        )
    for field in errors:
        arrays[field.name] = [None if row in rows else field.name for row in every]
    schema = pa.schema([*table_schema(LABELS), *errors])
    return pa.record_batch(
        [pa.array(arrays[each.name], each.type, safe=False) for each in schema], schema=schema
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "table.parquet"


def test_parts_are_joined_in_order_whatever_the_order_they_were_written_in(output: Path) -> None:
    folder = parts.Parts(output, MANIFEST)
    with folder.open():
        folder.join(map(folder.write, (part([5]), part([0, 1]), part([2, 4], [3]))))

    table = pq.read_table(output)
    assert table.select(["row", "label"]).to_pylist() == [
        {"row": row, "label": f"label {row}"} for row in (0, 1, 2, 4, 5)
    ]
    assert failures(output) == [{"row": 3, "source": "3.png", "code": "code", "message": "message"}]
    assert not folder.folder.exists()
    assert parts.Parts(output, MANIFEST).count_finished() == 5


def test_a_part_that_is_lost_makes_no_table_and_costs_no_other(output: Path) -> None:
    folder = parts.Parts(output, MANIFEST)

    with folder.open(), pytest.raises(OSError, match="on row 2 cannot be read; run the same"):
        folder.join(map(folder.write, (part([0, 1]), part([5]))))

    assert not output.exists()
    with folder.open():
        folder.join(map(folder.write, [part([2, 3, 4])]))
    assert [row["row"] for row in pq.read_table(output).to_pylist()] == list(range(6))


def test_a_part_that_is_not_whole_has_to_be_made_again(output: Path) -> None:
    folder = parts.Parts(output, MANIFEST)
    with folder.open():
        for content in (part([0, 2], [1]), part([3, 4]), part([5, 6])):
            folder.write(content)
        last = folder.folder / "000000000005.arrow"
        os.truncate(last, last.stat().st_size - 9)

        found = [folder.read(row) for row in (0, 3, 5, 7)]
        assert [each and each.num_rows for each in found] == [3, 2, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passes": 3}, "had another passes;"),
        ({"digest": "x"}, "had another digest;"),
    ],
)
def test_parts_of_something_else_are_kept_and_the_difference_is_named(
    output: Path, change: dict[str, Any], message: str
) -> None:
    with parts.Parts(output, MANIFEST).open():
        parts.Parts(output, MANIFEST).write(part([0]))
    other = parts.Parts(output, {**MANIFEST, **change})

    with pytest.raises(UsageError, match=message), other.open():
        pass
    assert other.read(0) is not None
    with other.open(start_anew=True):
        assert other.read(0) is None


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
    assert parts.Parts(output, MANIFEST).count_finished() is None
    output.write_bytes(b"no table")

    with pytest.raises(UsageError, match="--overwrite"):
        parts.Parts(output, MANIFEST).count_finished()
