"""Files, folders and patterns on the command line, and the chunks that they are cut into."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from app.scoring import sources
from app.scoring.items import Failure
from app.scoring.sources import Chunk, Input, open_reader
from tests.app.scoring.inputs import (
    PIXELS,
    encoded,
    png,
    write_folder,
    write_idx,
    write_npz,
    write_parquet,
    write_tar,
    write_zip,
)
from tests.app.scoring.runs import failures, rows, score
from tests.conftest import SAMPLES


def test_every_kind_of_input_gives_the_same_rows(tmp_path: Path) -> None:
    flat = [list(map(int, each.reshape(-1))) for each in PIXELS[:20]]
    nested = [each.tolist() for each in PIXELS[:20]]
    nested_type = pa.list_(pa.list_(pa.uint8()))
    records = pa.array([{"bytes": png(each), "path": None} for each in PIXELS[:20]])
    np.save(tmp_path / "array.npy", PIXELS[:20])
    inputs = [
        write_folder(tmp_path / "folder", 20),
        write_zip(tmp_path / "a.zip", 20),
        write_tar(tmp_path / "a.tar", 20),
        write_tar(tmp_path / "a.tar.gz", 20),
        write_idx(tmp_path / "plain", PIXELS[:20]),
        write_idx(tmp_path / "packed.gz", PIXELS[:20]),
        tmp_path / "array.npy",
        write_npz(tmp_path / "a.npz", PIXELS[:20].astype(np.int32)),
        write_npz(tmp_path / "flat.npz", PIXELS[:20].reshape(20, 784)),
        write_parquet(tmp_path / "files.parquet", encoded(20)),
        write_parquet(tmp_path / "flat.parquet", pa.array(flat, pa.list_(pa.uint8(), 784))),
        write_parquet(tmp_path / "nested.parquet", pa.array(nested, nested_type), name="digits"),
        write_parquet(tmp_path / "records.parquet", records),
    ]
    output = tmp_path / "table.parquet"

    assert score(*inputs, "--seed", "1", "--passes", "4", output=output) == 0

    found = [{**row, "source": None} for row in rows(output)]
    assert [row["row"] for row in found] == list(range(20 * len(inputs)))
    for number in range(len(inputs)):
        part = found[20 * number : 20 * number + 20]
        assert [{**row, "row": row["row"] - 20 * number} for row in part] == found[:20]


def bad_sources(folder: Path) -> dict[str, Path]:
    labels = folder / "labels.npy"
    np.save(labels, np.arange(10))
    (folder / "cut.zip").write_bytes(write_zip(folder / "b.zip", 2).read_bytes()[:-30])
    (folder / "text.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "cut.parquet").write_bytes(b"PAR1, and no more")
    numbers = pa.array(range(3))
    return {
        "invalid_pixels labels": labels,
        "invalid_pixels floats": write_npz(folder / "f.npz", PIXELS[:2] / 255),
        "invalid_pixels scaled": write_idx(folder / "s-idx3-ubyte", PIXELS[:1] // 255),
        "invalid_pixels colours": write_npz(folder / "c.npz", np.zeros((2, 28, 28, 3), np.uint8)),
        "invalid_pixels idx": write_idx(folder / "l-idx3-ubyte", PIXELS[0, 0]),
        "corrupt_archive": folder / "cut.zip",
        "corrupt_file": folder / "cut.parquet",
        "unreadable_column": write_parquet(folder / "n.parquet", numbers),
        "not_an_image": folder / "text.png",
        "unreadable_file none": folder / "none.png",
        "unreadable_file empty": folder / "empty",
        "unreadable_file pattern": folder / "*.gif",
        "no_ink": write_idx(folder / "k-idx3-ubyte", np.full((1, 28, 28), 9, np.uint8)),
    }


def test_what_cannot_be_read_is_one_failure_with_its_code(tmp_path: Path) -> None:
    bad = bad_sources(tmp_path)
    output = tmp_path / "table.parquet"

    assert score(*bad.values(), SAMPLES / "7.png", "--passes", "2", output=output) == 1

    expected = {code.partition(" ")[0]: None for code in bad}
    assert {each["code"] for each in failures(output)} == set(expected)
    assert [each["code"] for each in failures(output)] == [code.partition(" ")[0] for code in bad]
    assert all(each["message"] for each in failures(output))
    assert [row["digit"] for row in rows(output)] == [7]


# Chunks


def pieces_of(chunk: Chunk) -> list[tuple[str, int, int]]:
    return [(Path(piece.path).name, piece.start, piece.stop) for piece in chunk.pieces]


def test_files_are_cut_into_chunks_of_as_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "CHUNK_ROWS", 5)
    first = write_idx(tmp_path / "a-idx3-ubyte", PIXELS[:7])
    second = write_idx(tmp_path / "b-idx3-ubyte", PIXELS[:4])
    found = list(Input([str(first), str(second)]).chunks())

    assert [(chunk.number, chunk.first_row, chunk.rows) for chunk in found] == [
        (0, 0, 5),
        (1, 5, 5),
        (2, 10, 1),
    ]
    assert pieces_of(found[1]) == [(first.name, 5, 7), (second.name, 0, 3)]


def test_large_images_make_smaller_chunks_of_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_idx(tmp_path / "a-idx3-ubyte", PIXELS[:4])
    for size, expected in ((2 * 790, [2, 2]), (100, [1, 1, 1, 1])):
        monkeypatch.setattr(sources, "CHUNK_BYTES", size)
        assert [chunk.rows for chunk in Input([str(path)]).chunks()] == expected


def test_the_digest_changes_with_the_files_and_their_order(tmp_path: Path) -> None:
    first = str(write_idx(tmp_path / "a-idx3-ubyte", PIXELS[:2]))
    second = str(write_idx(tmp_path / "b-idx3-ubyte", PIXELS[:2]))
    images, digest = Input([first, second]).survey()

    assert images == 4
    assert Input([first, second]).survey() == (images, digest)
    assert Input([second, first]).survey() != (images, digest)
    os.utime(first, (1, 1))
    assert Input([first, second]).survey() != (images, digest)


def test_a_file_without_a_known_ending_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    made = {
        "idx": write_idx(tmp_path / "a", PIXELS[:2]),
        "zip": write_zip(tmp_path / "b", 2),
        "tar": write_tar(tmp_path / "c.tar.gz", 2).rename(tmp_path / "c"),
        "parquet": write_parquet(tmp_path / "d", encoded(2)),
        "numpy": tmp_path / "e",
        "picture": tmp_path / "f",
    }
    made["picture"].write_bytes(png(PIXELS[7]))
    with made["numpy"].open("wb") as file:
        np.save(file, PIXELS[:2])
    for kind, path in made.items():
        (chunk,) = Input([str(path)]).chunks()
        assert [piece.kind for piece in chunk.pieces] == [kind]


def test_a_picture_beyond_the_limit_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(PIXELS[7]))
    monkeypatch.setattr("app.scoring.items.LARGEST_FILE_BYTES", 100)

    (item,) = open_reader(str(path), "picture", None).read(0, 1)
    assert isinstance(item.image, Failure)
    assert item.image.code == "too_large"
