"""A column of images in a Parquet file: which one, and what damage costs."""

from pathlib import Path

import pyarrow.parquet as pq

from tests.app.scoring.inputs import (
    encoded,
    write_parquet,
)
from tests.app.scoring.runs import failures, rows, score


def test_a_damaged_column_costs_its_row_group(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", encoded(24))
    begin = pq.read_metadata(source).row_group(1).column(1).data_page_offset
    content = bytearray(source.read_bytes())
    content[begin : begin + 16] = b"\xff" * 16
    source.write_bytes(content)
    output = tmp_path / "table.parquet"

    assert score(source, "--passes", "2", output=output) == 1

    assert {each["code"] for each in failures(output)} == {"unreadable_column"}
    assert [each["row"] for each in failures(output)] == list(range(8, 16))
    assert [row["row"] for row in rows(output)] == [*range(8), *range(16, 24)]


def test_a_named_column_is_taken_and_an_unknown_one_explained(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", encoded(3), name="scan")
    output = tmp_path / "table.parquet"
    assert score(source, "--column", "scan", "--passes", "2", output=output) == 0
    assert score(source, "--column", "x", "--overwrite", "--passes", "2", output=output) == 1
    assert "there is no column x in this file; it has id, scan" in failures(output)[0]["message"]
