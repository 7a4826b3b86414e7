"""Files, folders and patterns on the command line, and the chunks that they are cut into."""

from pathlib import Path

import numpy as np
import pyarrow as pa

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
