"""Damaged files of every kind are read or refused in one line, in bounded time and memory."""

import random
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc"),
    # torch.export's own code uses what Python will remove.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
pytest.importorskip("h5py")
mutations = pytest.importorskip("tests.training.importing.mutations")


@pytest.mark.usefixtures("one_thread")
def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    for kind, seen in mutations.damage_all(40, tmp_path):
        assert seen.is_as_wanted, (kind, seen)
        assert seen.ends["refused"] > 5, kind
        assert seen.ends["read"] > 0, kind


def test_what_ends_otherwise_is_noticed(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("two\nlines")

    assert mutations.ending(fail).startswith("RuntimeError")
    with mutations.peak_memory() as peak:
        del (bytearray(2 * mutations.MOST_BYTES))[::4096]
        assert peak() > mutations.MOST_BYTES / 2**20
    seen = mutations.Seen(mutations.Counter({"RuntimeError: two": 1}))
    assert not seen.is_as_wanted
    content = bytes(1000)
    assert mutations.change(content, random.Random(0)) != content
