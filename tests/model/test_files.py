"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from model.files import write_atomically


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


def test_a_write_replaces_the_file_and_leaves_nothing_else(path: Path) -> None:
    write_atomically(path, b"old and longer")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_an_open_reader_keeps_the_old_file(path: Path) -> None:
    write_atomically(path, b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new")
        assert reader.read() == b"old"


def test_missing_folders_are_made_and_the_file_can_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "net"
    write_atomically(path, b"x")
    assert path.stat().st_mode & 0o777 == 0o644
