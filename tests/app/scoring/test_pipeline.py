"""A block of images becomes rows of the table, each with an answer or the reason why not."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from app.schemas import McParameters
from app.scoring import pipeline
from app.scoring.answers import table_schema
from app.scoring.parts import failures_in
from app.scoring.pipeline import Network, load_network, predict, prepare, read
from app.scoring.question import Question
from app.scoring.sources import Block, Input
from app.settings import Settings
from tests.app.scoring.inputs import PIXELS, png, write_folder, write_idx, write_zip
from tests.app.scoring.runs import rows, score
from tests.conftest import SAMPLES


def test_without_a_seed_each_image_draws_its_own(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    assert score(source, "--passes", "2", output=tmp_path / "t.parquet") == 0
    assert len({row["seed"] for row in rows(tmp_path / "t.parquet")}) == len(PIXELS)


# The steps alone

QUESTION = Question(McParameters(passes=2, seed=1), None, Settings())


@pytest.fixture(scope="module")
def network(one_thread: None) -> Network:
    return load_network(QUESTION)


def blocks_of(*paths: Path, most_rows: int = 1024) -> Iterator[Block]:
    return Input([str(path) for path in paths]).blocks(most_rows)


def scored(network: Network, *paths: Path) -> pa.RecordBatch:
    (batch,) = read(blocks_of(*paths), None)
    return predict(prepare(batch, QUESTION), QUESTION, network)


def test_a_block_has_a_row_for_each_image_in_order(network: Network, tmp_path: Path) -> None:
    text = tmp_path / "text\n.png"
    text.write_text("no image")

    batch = scored(network, SAMPLES / "7.png", text, SAMPLES / "4.png")

    assert batch["row"].to_pylist() == [0, 1, 2]
    assert batch["digit"].to_pylist() == [7, None, 4]
    assert batch["mean"].null_count == 1
    (failure,) = failures_in(batch)
    assert (failure["row"], failure["code"]) == (1, "not_an_image")
    assert failure["source"] == f"{tmp_path}/text\ufffd.png"  # nothing that breaks a line


def test_a_picture_bomb_is_a_failure_and_its_neighbours_are_scored(
    network: Network, tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (8000, 8000)).save(bomb)
    assert bomb.stat().st_size < 2**16

    batch = scored(network, SAMPLES / "7.png", bomb, SAMPLES / "4.png")

    assert batch["code"].to_pylist() == [None, "too_many_pixels", None]
    assert batch["digit"].to_pylist() == [7, None, 4]


def test_a_block_of_failures_only_has_the_columns_of_others(
    network: Network, tmp_path: Path
) -> None:
    batch = scored(network, tmp_path / "none.png")

    assert (batch.num_rows, batch["digit"].null_count) == (1, 1)
    assert batch.schema == scored(network, SAMPLES / "7.png").schema
    assert batch.schema.names == [*table_schema("0123456789").names, "code", "message"]


def test_files_go_on_from_block_to_block_whichever_blocks_are_read(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", 7)
    archive = write_zip(tmp_path / "a.zip", 9)
    blocks = list(blocks_of(archive, folder, most_rows=4))
    expected = [png(PIXELS[number]) for number in [*range(9), *range(7)]]
    assert [block.rows for block in blocks] == [4] * 4

    for wanted in ([0, 1, 2, 3], [3, 1, 2], [2, 0]):
        batches = list(read([blocks[number] for number in wanted], None))
        for number, batch in zip(wanted, batches, strict=True):
            assert batch["image"].to_pylist() == expected[4 * number : 4 * number + 4]
            assert batch["row"].to_pylist() == list(range(4 * number, 4 * number + 4))


def test_what_changes_after_the_survey_fails_and_the_rest_is_read(tmp_path: Path) -> None:
    first, gone = write_zip(tmp_path / "a.zip", 4), write_zip(tmp_path / "b.zip", 4)
    last = SAMPLES / "7.png"
    (block,) = blocks_of(first, gone, last)
    write_zip(first, 2)
    gone.unlink()

    (batch,) = read([block], None)

    changed, missing = "the file has changed since it was counted", "there is no such file"
    assert batch["message"].to_pylist() == [None] * 2 + [changed] * 2 + [missing] * 4 + [None]
    assert batch["source"].to_pylist()[2:5] == [f"{first}[2]", f"{first}[3]", f"{gone}[0]"]


def test_a_block_that_takes_much_memory_is_several_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", 9)
    monkeypatch.setattr(pipeline, "BATCH_BYTES", 2 * len(png(PIXELS[0])))

    batches = list(read(blocks_of(archive), None))

    assert len(batches) > 3
    assert [row for batch in batches for row in batch["row"].to_pylist()] == list(range(9))
    output = tmp_path / "table.parquet"
    assert score(archive, "--passes", "2", output=output) == 0
    assert [row["row"] for row in rows(output)] == list(range(9))
