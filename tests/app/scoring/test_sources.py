"""Files, folders and patterns on the command line, and the blocks that they are cut into."""

import bz2
import lzma
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import fsspec  # type: ignore[import-untyped]
import numpy as np
import pyarrow as pa
import pytest

from app.scoring import sources
from app.scoring.readers import Piece
from app.scoring.sources import Block, cut, survey
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
    packed = write_tar(tmp_path / "packed.tar", 20).read_bytes()
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(packed))
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(packed))
    inputs = [
        write_folder(tmp_path / "folder", 20),
        write_zip(tmp_path / "a.zip", 20),
        write_tar(tmp_path / "a.tar", 20),
        write_tar(tmp_path / "a.tar.gz", 20),
        write_tar(tmp_path / "b.tgz", 20),
        tmp_path / "a.tar.bz2",
        tmp_path / "a.tar.xz",
        write_idx(tmp_path / "plain-idx3-ubyte", PIXELS[:20]),
        write_idx(tmp_path / "packed-idx3-ubyte.gz", PIXELS[:20]),
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
    objects = folder / "objects.npy"
    np.save(objects, np.array([[{}], [{}]]))
    (folder / "cut.zip").write_bytes(write_zip(folder / "b.zip", 2).read_bytes()[:-30])
    (folder / "text.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "cut.parquet").write_bytes(b"PAR1, and no more")
    numbers = pa.array(range(3))
    return {
        "unreadable_file labels": labels,
        "unreadable_file idx": write_idx(folder / "l-idx3-ubyte", PIXELS[0, 0]),
        "unreadable_file none": folder / "none.png",
        "unreadable_file empty": folder / "empty",
        "unreadable_file pattern": folder / "*.gif",
        "invalid_pixels floats": write_npz(folder / "f.npz", PIXELS[:1] / 255),
        "invalid_pixels scaled": write_idx(folder / "s-idx3-ubyte", PIXELS[:1] // 255),
        "invalid_pixels colours": write_npz(folder / "c.npz", np.zeros((1, 28, 28, 3), np.uint8)),
        "corrupt_file objects": objects,
        "corrupt_file zip": folder / "cut.zip",
        "corrupt_file parquet": folder / "cut.parquet",
        "unreadable_column": write_parquet(folder / "n.parquet", numbers),
        "not_an_image": folder / "text.png",
        "no_ink": write_idx(folder / "k-idx3-ubyte", np.full((1, 28, 28), 9, np.uint8)),
    }


def test_what_cannot_be_read_is_one_failure_with_its_code(tmp_path: Path) -> None:
    bad = bad_sources(tmp_path)
    output = tmp_path / "table.parquet"

    assert score(*bad.values(), SAMPLES / "7.png", "--passes", "2", output=output) == 1

    assert [each["code"] for each in failures(output)] == [code.partition(" ")[0] for code in bad]
    assert all(each["message"] for each in failures(output))
    assert [row["digit"] for row in rows(output)] == [7]


# Blocks


def blocks_of(*paths: Path, passes: int = 50) -> list[Block]:
    pieces, _ = survey([str(path) for path in paths])
    return list(cut(pieces, passes))


@pytest.mark.parametrize(("passes", "rows"), [(1, 1024), (50, 1024), (1000, 51), (100_000, 1)])
def test_many_passes_make_small_blocks(passes: int, rows: int) -> None:
    assert next(cut([Piece("x", stop=2000)], passes)).rows == rows


def pieces_of(block: Block) -> list[tuple[str, int, int]]:
    return [(Path(piece.path).name, piece.start, piece.stop) for piece in block.pieces]


def test_files_are_cut_and_put_together_into_blocks(tmp_path: Path) -> None:
    first = write_idx(tmp_path / "a-idx3-ubyte", PIXELS[:7])
    second = write_idx(tmp_path / "b-idx3-ubyte", PIXELS[:3])
    found = blocks_of(first, second, second, passes=10_000)

    assert [(block.first_row, block.rows) for block in found] == [(0, 5), (5, 5), (10, 3)]
    assert pieces_of(found[1]) == [(first.name, 5, 7), (second.name, 0, 3)]


def test_large_images_make_smaller_blocks_of_at_least_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_idx(tmp_path / "a-idx3-ubyte", PIXELS[:4])
    for size, expected in ((2 * 790, [2, 2]), (100, [1, 1, 1, 1])):
        monkeypatch.setattr(sources, "BLOCK_BYTES", size)
        assert [block.rows for block in blocks_of(path)] == expected


def test_the_digest_changes_with_the_files_and_their_order(tmp_path: Path) -> None:
    first = str(write_idx(tmp_path / "a-idx3-ubyte", PIXELS[:2]))
    second = str(write_idx(tmp_path / "b-idx3-ubyte", PIXELS[:2]))
    pieces, digest = survey([first, second])

    assert [piece.stop for piece in pieces] == [2, 2]
    assert survey([first, second]) == (pieces, digest)
    assert survey([second, first])[1] != digest
    os.utime(first, (1, 1))
    assert survey([first, second]) == (pieces, survey([first, second])[1]) != (pieces, digest)


def test_a_name_of_any_bytes_is_read(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    Path(name).write_bytes(png(PIXELS[7]))
    output = tmp_path / "table.parquet"

    assert score(tmp_path, "--passes", "2", output=output) == 0
    assert [row["source"] for row in rows(output)] == [f"{tmp_path}/\ufffd.png"]


# Other file systems


@pytest.fixture
def remote() -> Iterator[str]:
    """A folder of fsspec's own file system in memory, with digits 0 to 2 and an archive of five."""
    system = fsspec.filesystem("memory")
    for number in range(3):
        system.pipe(f"/digits/{number}.png", png(PIXELS[number]))
    system.pipe("/digits/notes.txt", b"no image")
    yield "memory://digits"
    system.rm("/digits", recursive=True)


def test_urls_are_read_as_paths_are(remote: str, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "a.zip", 5).read_bytes()
    fsspec.filesystem("memory").pipe("/digits/a.zip", archive)
    output = tmp_path / "table.parquet"
    inputs = (remote, f"{remote}/*.zip", f"{remote}/1.png", f"{remote}/none.png")

    assert score(*inputs, "--passes", "2", output=output) == 1

    pictures = [f"{remote.replace('://', ':///')}/{number}.png" for number in range(3)]
    members = [f"{remote.replace('://', ':///')}/a.zip:digit{number:02}.png" for number in range(5)]
    found = [row["source"].replace(":////", ":///") for row in rows(output)]
    assert found == [*pictures, *members, *members, pictures[1]]
    (failure,) = failures(output)
    assert failure["message"] == "there is no such file"


def test_a_changed_remote_file_changes_the_digest(remote: str) -> None:
    found = survey([remote])
    assert found == survey([remote])
    fsspec.filesystem("memory").pipe("/digits/0.png", png(PIXELS[9]) + b"more")
    assert survey([remote])[1] != found[1]


@pytest.mark.parametrize("url", ["s3://bucket/a.png", "none://bucket/a.png"])
def test_a_file_system_that_is_not_installed_is_one_failure(url: str, tmp_path: Path) -> None:
    if find_spec("s3fs") and url.startswith("s3"):
        pytest.skip("it is installed")
    output = tmp_path / "table.parquet"
    assert score(url, SAMPLES / "7.png", "--passes", "2", output=output) == 1
    (failure,) = failures(output)
    assert failure["code"] == "unreadable_file"
    assert url.partition(":")[0] in failure["message"]
