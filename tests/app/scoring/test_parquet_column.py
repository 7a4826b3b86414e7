"""A column of images in a Parquet file: which one, and what damage costs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.scoring.readers import Failure
from tests.app.scoring.inputs import PIXELS, encoded, write_parquet
from tests.app.scoring.runs import failures, read_images, rows, score


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
    assert "with --column: id (int64), scan (binary)" in failures(output)[0]["message"]


# The column alone


def write(path: Path, **columns: pa.Array) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


FILES, NUMBERS = encoded(3), pa.array([1, 2, 3])


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        ({"id": NUMBERS}, None, "--column: id (int64)"),
        ({"one": FILES, "two": FILES}, None, "--column: one (binary), two (binary)"),
        ({"image": FILES, "id": NUMBERS}, "id", "image (binary), id (int64)"),
        ({"image": FILES}, "img", "--column: image (binary)"),
    ],
)
def test_a_column_that_is_not_plain_is_asked_for(
    tmp_path: Path, columns: dict[str, pa.Array], wanted: str | None, message: str
) -> None:
    path = write(tmp_path / "a.parquet", **columns)
    ((source, failure),) = read_images(path, column=wanted)
    assert (source, failure.code) == (str(path), "unreadable_column")
    assert message in failure.message


def test_a_usual_name_is_taken_before_others(tmp_path: Path) -> None:
    other = encoded(2).take(pa.array([1, 0]))
    path = write(tmp_path / "a.parquet", scan=other, img=encoded(2))

    assert [image for _, image in read_images(path)] == encoded(2).to_pylist()


def test_a_row_without_an_image_or_with_rows_of_different_length_fails_alone(
    tmp_path: Path,
) -> None:
    ragged = [[255] * 28] * 27 + [[255] * 27]
    values = [PIXELS[0].tolist(), None, ragged, [], PIXELS[1].tolist()]
    pixels = pa.array(values, pa.list_(pa.list_(pa.uint8())))

    images = [image for _, image in read_images(write(tmp_path / "a.parquet", pixels=pixels))]

    codes = [image.code if isinstance(image, Failure) else None for image in images]
    assert codes == [None, "missing_image", "invalid_pixels", "invalid_pixels", None]
    assert np.array_equal(images[4], PIXELS[1])


@pytest.mark.parametrize("start", [0, 3, 8, 13, 23])
def test_a_file_is_read_from_any_row_on(tmp_path: Path, start: int) -> None:
    path = write_parquet(tmp_path / "a.parquet", encoded(24))

    found = read_images(path, start=start)

    assert [image for _, image in found] == encoded(24).to_pylist()[start:]
    assert [source for source, _ in found] == [f"{path}[{index}]" for index in range(start, 24)]
