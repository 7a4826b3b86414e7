"""A chunk of images becomes a part of the table."""

from pathlib import Path

from tests.app.scoring.inputs import (
    PIXELS,
    write_idx,
)
from tests.app.scoring.runs import rows, score


def test_without_a_seed_each_image_draws_its_own(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    assert score(source, "--passes", "2", output=tmp_path / "t.parquet") == 0
    assert len({row["seed"] for row in rows(tmp_path / "t.parquet")}) == len(PIXELS)
