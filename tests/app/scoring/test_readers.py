"""The images of archives and arrays: where reading begins, what is refused, what damage costs."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import ApiError
from app.scoring.pipeline import check_array
from app.scoring.readers import Failure
from model.layered import InputSpec
from tests.app.scoring.inputs import PIXELS, png, write_idx, write_npz, write_tar, write_zip
from tests.app.scoring.runs import failures, read_images, rows, score


def save_npy(path: Path, pixels: NDArray[Any]) -> Path:
    np.save(path, pixels)
    return path


DIGITS = InputSpec((28, 28), "uint8", preparation="digit")

# Archives


def test_damaged_members_fail_and_the_rest_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = write_zip(tmp_path / "a.zip", 6, compression=0)
    content = bytearray(stored.read_bytes())
    content[content.index(png(PIXELS[2])) + 60] ^= 1
    stored.write_bytes(content)
    cut = write_tar(tmp_path / "a.tar", 6)
    whole = cut.read_bytes()
    cut.write_bytes(whole[: whole.index(png(PIXELS[4])) + 20])
    broken = write_tar(tmp_path / "b.tar", 6)
    whole = broken.read_bytes()
    at = whole.index(b"digit03.png")
    broken.write_bytes(whole[:at] + b"\xff" * 512 + whole[at + 512 :])
    output = tmp_path / "table.parquet"

    assert score(stored, cut, broken, "--passes", "2", "--seed", "1", output=output) == 1

    assert [(each["source"], each["code"]) for each in failures(output)] == [
        (f"{stored}:digit02.png", "corrupt_member"),
        (f"{cut}:digit04.png", "corrupt_member"),
        (str(cut), "corrupt_file"),
        (str(broken), "corrupt_file"),
    ]
    assert len(rows(output)) == 5 + 4 + 3
    every = [each["row"] for each in [*rows(output), *failures(output)]]
    assert sorted(every) == list(range(16))
    errors = capsys.readouterr().err
    assert "it is damaged or encrypted; pack the archive again" in errors
    assert f"4 of 16 images failed; {output.with_suffix('.errors.jsonl')} says" in errors


def test_hidden_members_and_other_files_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("__MACOSX/._7.png", ".hidden/7.png", "readme.txt", "digits/7.PNG"):
            archive.writestr(name, png(PIXELS[7]))

    assert [source for source, _ in read_images(path)] == [f"{path}:digits/7.PNG"]


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_without_images_is_one_failure(write: Any, tmp_path: Path) -> None:
    ((_, failure),) = read_images(write(tmp_path / f"a.{write.__name__[-3:]}", 0))
    assert failure == ("unreadable_file", "there is no image, or no file has such a name")


def test_an_encrypted_member_is_named_as_such(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", 1, compression=0)
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\1\2", 0, content.rindex(b"digit00.png"))
    content[directory + 8] |= 1
    path.write_bytes(content)

    ((_, failure),) = read_images(path)
    assert failure.code == "corrupt_member"
    assert "encrypted" in failure.message


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("start", [0, 2, 5])
def test_an_archive_is_read_from_any_member_on(tmp_path: Path, name: str, start: int) -> None:
    path = (write_zip if name.endswith("zip") else write_tar)(tmp_path / name, 6)

    found = read_images(path, start)

    assert found == [
        (f"{path}:digit{number:02}.png", png(PIXELS[number])) for number in range(start, 6)
    ]


# Arrays


@pytest.mark.parametrize("name", ["a-idx3-ubyte", "a-idx3-ubyte.gz", "a.npy", "a.npz"])
@pytest.mark.parametrize("start", [0, 8, 31])
def test_an_array_is_read_from_any_image_on(name: str, start: int, tmp_path: Path) -> None:
    write = {".npy": save_npy, ".npz": write_npz}.get(Path(name).suffix, write_idx)

    images = [image for _, image in read_images(write(tmp_path / name, PIXELS), start)]

    assert np.array_equal(np.stack(images), PIXELS[start:])


def test_an_idx_file_that_ends_early_loses_what_is_missing(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "x-idx3-ubyte", PIXELS)
    source.write_bytes(source.read_bytes()[: 16 + 20 * 784 + 5])
    output = tmp_path / "table.parquet"

    assert score(source, "--passes", "2", output=output) == 1

    assert [row["row"] for row in rows(output)] == list(range(20))
    assert {each["code"] for each in failures(output)} == {"corrupt_file"}


def test_a_header_that_promises_more_than_there_is_room_for_is_not_believed(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", PIXELS[:3])
    header = b"(3, 28, 28), }        ", b"(300000000, 28, 28), }"
    path.write_bytes(path.read_bytes().replace(*header))

    codes = [getattr(image, "code", None) for _, image in read_images(path)]
    assert codes == [None, None, None, "corrupt_file"]


def test_bytes_after_an_array_are_no_images(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "a.npy", PIXELS[:3])
    with path.open("ab") as file:
        file.write(PIXELS[3].tobytes())

    assert len(read_images(path)) == 3


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (PIXELS[0] / 255, "and not (28, 28) of float64"),
        (PIXELS[0] // 255, "from 0 to 1"),
        (PIXELS[0].astype(np.int32) - 1, "from -1 to 254"),
        (PIXELS[0].astype(np.int32) + 1, "from 1 to 256"),
        (PIXELS[0].ravel()[:783], "and not (783,)"),
        (np.zeros((28, 28, 3), np.uint8), "and not (28, 28, 3)"),
        (np.full((101, 10), 9, np.uint8), "more pixels"),
    ],
)
def test_pixels_are_checked_as_those_of_a_request(pixels: NDArray[Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_array(pixels, 1000, DIGITS)

    assert caught.value.code in ("invalid_pixels", "too_many_pixels")
    assert message in caught.value.message


@pytest.mark.parametrize(
    "pixels", [PIXELS[7], PIXELS[7].ravel(), PIXELS[7].astype(np.int64), PIXELS[7].astype(">u2")]
)
def test_integers_of_any_width_flat_or_not_are_the_same_image(pixels: NDArray[Any]) -> None:
    image = check_array(pixels, 1000, DIGITS)

    assert (image.dtype.name, image.tolist()) == ("uint8", PIXELS[7].tolist())


def test_an_archive_of_arrays_passes_over_labels_and_names_its_images(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, first=PIXELS[:2], labels=np.arange(5), second=PIXELS[2:4])

    found = read_images(path)

    assert [source for source, _ in found] == [
        f"{path}:{name}[{index}]" for name in ("first", "second") for index in (0, 1)
    ]
    assert all((image == PIXELS[index]).all() for index, (_, image) in enumerate(found))
    assert [source for source, _ in read_images(path, 3)] == [f"{path}:second[1]"]


def test_an_array_in_fortran_order_is_refused_with_its_cure(tmp_path: Path) -> None:
    ((_, failure),) = read_images(save_npy(tmp_path / "a.npy", np.asfortranarray(PIXELS)))

    assert "numbers in C order" in failure.message


def test_a_picture_beyond_the_limit_is_one_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(PIXELS[7]))
    monkeypatch.setattr("app.scoring.readers.LARGEST_BYTES", 100)

    ((_, image),) = read_images(path)
    assert isinstance(image, Failure)
    assert image.code == "too_large"
