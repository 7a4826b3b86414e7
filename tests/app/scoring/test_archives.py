"""Zip and tar archives, whole and damaged."""

from pathlib import Path

import pytest

from tests.app.scoring.inputs import (
    PIXELS,
    png,
    write_tar,
    write_zip,
)
from tests.app.scoring.runs import failures, rows, score


def test_damaged_members_fail_and_the_rest_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = write_zip(tmp_path / "a.zip", 6, compression=0)
    content = bytearray(stored.read_bytes())
    content[content.index(png(PIXELS[2])) + 60] ^= 1
    stored.write_bytes(content)
    cut = write_tar(tmp_path / "a.tar", 6)
    whole = cut.read_bytes()
    cut.write_bytes(whole[: whole.index(png(PIXELS[4])) + 20])
    broken = write_tar(tmp_path / "b.tar", 6)
    whole = broken.read_bytes()
    at = whole.index(b"digit03.png")
    broken.write_bytes(whole[:at] + b"\xff" * 512 + whole[at + 512 :])
    output = tmp_path / "table.parquet"

    assert score(stored, cut, broken, "--passes", "2", "--seed", "1", output=output) == 1

    assert [(each["source"], each["code"]) for each in failures(output)] == [
        (f"{stored}:digit02.png", "corrupt_member"),
        (f"{cut}:digit04.png", "corrupt_member"),
        (str(cut), "corrupt_archive"),
        (str(broken), "corrupt_archive"),
    ]
    assert len(rows(output)) == 5 + 4 + 3
    every = [each["row"] for each in [*rows(output), *failures(output)]]
    assert sorted(every) == list(range(16))
    errors = capsys.readouterr().err
    assert "this member of the archive is damaged" in errors
    assert f"4 of 16 images failed; {output.with_suffix('.errors.jsonl')} says" in errors
