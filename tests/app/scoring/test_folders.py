"""The image files of a folder, and names that can be printed."""

from pathlib import Path

import pytest

from app.scoring.folders import is_image_name, printable, walk_files


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.png", True), ("A.JPG", True), ("a.tiff", True), ("png", False), ("a.png.txt", False)],
)
def test_a_name_ends_as_an_images_does(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected


def test_files_come_sorted_by_path_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b.png", "a/z.png", "a/.hidden.png", ".git/x.png", "c/a.txt", "c/d/e.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "loop").symlink_to(tmp_path)

    found = [
        str(Path(path).relative_to(tmp_path)) for path in walk_files(str(tmp_path), is_image_name)
    ]

    assert found == ["a/z.png", "b.png", "c/d/e.png"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="none"):
        list(walk_files(str(tmp_path / "none"), is_image_name))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ümläut 7.png", "ümläut 7.png"),
        ("a\x1b[2J\n.png", "a\ufffd[2J\ufffd.png"),
        ("\udcff", "\ufffd"),
    ],
)
def test_what_would_confuse_a_terminal_is_replaced(name: str, text: str) -> None:
    assert printable(name) == text
