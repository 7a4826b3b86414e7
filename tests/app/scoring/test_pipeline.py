"""A block of images becomes rows of the table, each with an answer or the reason why not."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from app.schemas import McParameters
from app.scoring import sources
from app.scoring.answers import table_schema
from app.scoring.parts import failures_in
from app.scoring.pipeline import Network, load_network, predict, prepare, read
from app.scoring.question import Question
from app.scoring.readers import Reader
from app.scoring.sources import Block, cut, survey
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


def blocks_of(*paths: Path, passes: int = 50) -> Iterator[Block]:
    pieces, _ = survey([str(path) for path in paths])
    return cut(pieces, passes)


@pytest.fixture
def files() -> Iterator[Reader]:
    with closing(Reader()) as opened:
        yield opened


def scored(network: Network, *paths: Path) -> pa.RecordBatch:
    (block,) = blocks_of(*paths)
    with closing(Reader()) as files:
        return predict(prepare(read(block, files), network), network)


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


def test_files_go_on_from_block_to_block_whichever_blocks_are_read(
    files: Reader, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "folder", 7)
    archive = write_zip(tmp_path / "a.zip", 9)
    blocks = list(blocks_of(archive, folder, passes=12_000))
    expected = [png(PIXELS[number]) for number in [*range(9), *range(7)]]
    assert [block.rows for block in blocks] == [4] * 4

    for number in (0, 1, 2, 3, 3, 1, 2, 2, 0):
        batch = read(blocks[number], files)
        assert batch["image"].to_pylist() == expected[4 * number : 4 * number + 4]
        assert batch["row"].to_pylist() == list(range(4 * number, 4 * number + 4))


def test_what_changes_after_the_survey_fails_and_the_rest_is_read(
    files: Reader, tmp_path: Path
) -> None:
    first, gone = write_zip(tmp_path / "a.zip", 4), write_zip(tmp_path / "b.zip", 4)
    shorter, last = write_folder(tmp_path / "folder", 1) / "digit00.png", SAMPLES / "7.png"
    (block,) = blocks_of(first, gone, shorter, last)
    write_zip(first, 2)
    gone.unlink()
    shorter.write_bytes(b"short")

    batch = read(block, files)

    missing, lost = ["unreadable_file"] * 4, ["corrupt_member"] * 2
    assert batch["code"].to_pylist() == [None, None, *lost, *missing, "corrupt_file", None]
    assert batch["source"].to_pylist()[3:5] == [f"{first}:digit03.png", f"{gone}:digit00.png"]


@pytest.mark.parametrize("between", ["none.zip", "text.zip"])
def test_a_file_is_read_again_after_one_that_cannot_be(
    files: Reader, tmp_path: Path, between: str
) -> None:
    archive = write_zip(tmp_path / "a.zip", 3)
    broken = write_zip(tmp_path / between, 1)
    (block,) = blocks_of(archive, broken, archive)
    broken.unlink() if between == "none.zip" else broken.write_text("text")

    batch = read(block, files)

    assert batch["image"].to_pylist()[:3] == batch["image"].to_pylist()[4:]
    assert [code is None for code in batch["code"].to_pylist()] == [True] * 3 + [False] + [True] * 3


def test_blocks_have_as_many_bytes_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_zip(tmp_path / "a.zip", 9)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 2 * max(len(png(each)) for each in PIXELS))

    blocks = list(blocks_of(archive))

    assert {block.rows for block in blocks} <= {1, 2, 3}
    output = tmp_path / "table.parquet"
    assert score(archive, "--passes", "2", output=output) == 0
    assert [row["row"] for row in rows(output)] == list(range(9))
