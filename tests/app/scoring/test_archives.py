"""Zip and tar archives, whole and damaged."""

import zipfile
from pathlib import Path

import pytest

from app.scoring.archives import TarReader, ZipReader
from app.scoring.items import Failure, Reader, UnreadableError
from tests.app.scoring.inputs import PIXELS, png, write_tar, write_zip
from tests.app.scoring.runs import failures, rows, score


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
        (str(cut), "corrupt_archive"),
        (str(broken), "corrupt_archive"),
    ]
    assert len(rows(output)) == 5 + 4 + 3
    every = [each["row"] for each in [*rows(output), *failures(output)]]
    assert sorted(every) == list(range(16))
    errors = capsys.readouterr().err
    assert "this member of the archive is damaged" in errors
    assert f"4 of 16 images failed; {output.with_suffix('.errors.jsonl')} says" in errors


# The readers alone


def test_hidden_members_and_other_files_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("__MACOSX/._7.png", ".hidden/7.png", "readme.txt", "digits/7.PNG"):
            archive.writestr(name, png(PIXELS[7]))
    reader = ZipReader(str(path))

    assert [item.source for item in reader.read(0, reader.count)] == [f"{path}:digits/7.PNG"]
    reader.close()


def test_an_archive_without_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no image")

    with pytest.raises(UnreadableError) as caught:
        ZipReader(str(path))
    assert caught.value.failure.code == "unreadable_file"


def test_an_encrypted_member_is_named_as_such(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", 1, compression=0)
    content = bytearray(path.read_bytes())
    directory = content.rindex(b"PK\1\2", 0, content.rindex(b"digit00.png"))
    content[directory + 8] |= 1
    path.write_bytes(content)
    reader = ZipReader(str(path))

    (item,) = reader.read(0, 1)
    assert isinstance(item.image, Failure)
    assert item.image.code == "encrypted_member"
    reader.close()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("start", [0, 2, 5])
def test_an_archive_that_was_left_half_way_is_read_from_any_member_on(
    tmp_path: Path, name: str, start: int
) -> None:
    path = tmp_path / name
    write = write_zip if name.endswith("zip") else write_tar
    reader: Reader = (ZipReader if name.endswith("zip") else TarReader)(str(write(path, 6)))
    assert reader.count == 6
    left = iter(reader.read(0, 4))
    next(left)
    left.close()  # type: ignore[attr-defined]

    found = [item.source for item in reader.read(start, 6)]
    reader.close()
    assert found == [f"{path}:digit{number:02}.png" for number in range(start, 6)]
