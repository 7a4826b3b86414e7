"""Arrays of images: where reading goes on, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.scoring.arrays import IdxReader, NumpyReader
from tests.app.scoring.inputs import PIXELS, write_idx
from tests.app.scoring.runs import failures, rows, score


def save_npy(path: Path) -> Path:
    np.save(path, PIXELS)
    return path.with_name(f"{path.name}.npy")


def open_idx(folder: Path) -> IdxReader:
    return IdxReader(str(write_idx(folder / "x-idx3-ubyte", PIXELS)))


def open_npy(folder: Path) -> NumpyReader:
    return NumpyReader(str(save_npy(folder / "x")))


@pytest.mark.parametrize("opened", [open_idx, open_npy])
@pytest.mark.parametrize("start", [0, 2, 8, 15])
def test_a_reader_that_was_left_half_way_goes_on_where_it_is_asked_to(
    opened: Callable[[Path], IdxReader | NumpyReader], start: int, tmp_path: Path
) -> None:
    reader = opened(tmp_path)
    left = iter(reader.read(0, 12))
    for _ in range(3):
        next(left)
    left.close()  # type: ignore[attr-defined]

    images = [item.image for item in reader.read(start, 20)]
    reader.close()
    assert np.array_equal(np.stack(images), PIXELS[start:20])


def test_an_idx_file_that_ends_early_loses_what_is_missing(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    source.write_bytes(source.read_bytes()[: 16 + 20 * 784 + 5])
    output = tmp_path / "table.parquet"

    assert score(source, "--passes", "2", output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(20))
    assert {each["code"] for each in failures(output)} == {"corrupt_file"}
