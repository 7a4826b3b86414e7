"""Files are written whole or not at all, and read if that neither waits nor fills the memory."""

import os
from pathlib import Path

import pytest

from model.files import read_bounded, write_atomically


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


def test_a_file_is_read_up_to_its_limit(path: Path) -> None:
    path.write_bytes(b"four")
    assert read_bounded(path, 4) == b"four"
    with pytest.raises(OSError, match="more than 3 bytes"):
        read_bounded(path, 3)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes and devices")
def test_what_is_no_file_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path)
    for one in (path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_bounded(one, 4)
    with pytest.raises(IsADirectoryError):
        read_bounded(path.parent, 4)
