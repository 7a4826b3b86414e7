"""Arrays of images: where reading goes on, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.scoring.arrays import IdxReader, NumpyReader, image_of
from app.scoring.items import Failure
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


# One image


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (PIXELS[0] / 255, "these are float64"),
        (PIXELS[0] // 255, "scaled to"),
        (PIXELS[0].astype(np.int32) - 1, "from 0 to 255"),
        (PIXELS[0].astype(np.int32) + 1, "from 0 to 255"),
        (PIXELS[0].ravel()[:783], "28x28 or HxW, not (783,)"),
        (np.zeros((28, 28, 3), np.uint8), "not (28, 28, 3)"),
        (np.zeros((0, 28), np.uint8), "not (0, 28)"),
    ],
)
def test_pixels_are_checked_as_those_of_a_request(pixels: NDArray[Any], message: str) -> None:
    failure = image_of(pixels)

    assert isinstance(failure, Failure)
    assert failure.code == "invalid_pixels"
    assert message in failure.message


@pytest.mark.parametrize(
    "pixels", [PIXELS[7], PIXELS[7].ravel(), PIXELS[7].astype(np.int64), PIXELS[7].astype(">u2")]
)
def test_integers_of_any_width_flat_or_not_are_the_same_image(pixels: NDArray[Any]) -> None:
    image = image_of(pixels)

    assert isinstance(image, np.ndarray)
    assert (image.dtype.name, image.tolist()) == ("uint8", PIXELS[7].tolist())


def test_an_archive_of_arrays_passes_over_labels_and_names_its_images(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, first=PIXELS[:2], labels=np.arange(5), second=PIXELS[2:4])
    reader = NumpyReader(str(path))

    items = list(reader.read(0, reader.count))
    reader.close()
    assert [item.source for item in items] == [
        f"{path}:{name}[{index}]" for name in ("first", "second") for index in (0, 1)
    ]
    assert all((item.image == pixels).all() for item, pixels in zip(items, PIXELS, strict=False))


def test_an_array_in_fortran_order_is_refused_with_its_cure(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(PIXELS))

    (item, *_) = NumpyReader(str(path)).read(0, 1)
    assert isinstance(item.image, Failure)
    assert "ascontiguousarray" in item.image.message
