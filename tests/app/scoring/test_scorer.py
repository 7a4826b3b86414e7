"""A chunk of images becomes a part of the table."""

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.schemas import McParameters
from app.scoring.answers import table_schema
from app.scoring.options import ScoreOptions
from app.scoring.parts import FAILURES_KEY
from app.scoring.scorer import Scorer
from app.scoring.sources import Chunk, Input
from app.settings import Settings
from tests.app.scoring.inputs import PIXELS, write_idx
from tests.app.scoring.runs import rows, score
from tests.conftest import SAMPLES


def test_without_a_seed_each_image_draws_its_own(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    assert score(source, "--passes", "2", output=tmp_path / "t.parquet") == 0
    assert len({row["seed"] for row in rows(tmp_path / "t.parquet")}) == len(PIXELS)


# One chunk alone

OPTIONS = ScoreOptions(McParameters(passes=2, seed=1), None, Settings())


@pytest.fixture(scope="module")
def scorer(one_thread: None) -> Iterator[Scorer]:
    made = Scorer(OPTIONS)
    yield made
    made.close()


def chunk_of(*paths: Path) -> Chunk:
    (chunk,) = Input([str(path) for path in paths]).chunks()
    return chunk


def test_a_part_has_its_rows_and_lists_its_failures(scorer: Scorer, tmp_path: Path) -> None:
    text = tmp_path / "text\n.png"
    text.write_text("no image")
    part = scorer.score(chunk_of(SAMPLES / "7.png", text, SAMPLES / "4.png"))

    table = pq.read_table(pa.BufferReader(part.content))
    assert table["row"].to_pylist() == [0, 2]
    assert table["digit"].to_pylist() == [7, 4]
    (failure,) = part.failures
    assert (failure["row"], failure["code"]) == (1, "not_an_image")
    assert failure["source"] == f"{tmp_path}/text\ufffd.png"  # nothing that breaks a line
    assert json.loads(table.schema.metadata[FAILURES_KEY]) == part.failures


def test_a_chunk_of_failures_only_is_a_table_without_rows(scorer: Scorer, tmp_path: Path) -> None:
    part = scorer.score(chunk_of(tmp_path / "none.png"))

    table = pq.read_table(pa.BufferReader(part.content))
    assert (table.num_rows, len(part.failures)) == (0, 1)
    assert table.schema.names == table_schema(10).names
