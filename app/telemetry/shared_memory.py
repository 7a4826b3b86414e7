"""Numbers that each of several processes counts in a row of its own, and that all of them can read.

A row has one writer, so it needs no lock. Its memory outlives a worker that is killed, and the
replacement continues in the same row.
"""

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TEXT_BYTES = 256
_NUMBER_BYTES = 8


class SharedCounts:
    """Rows of float64 numbers with a short text each.

    Args:
        rows: one for each process that counts.
        columns: the numbers in a row.
        path: a file of `create_file` to share; None keeps the counts in this process.
    """

    def __init__(self, rows: int, columns: int, path: Path | None = None) -> None:
        size = rows * _row_bytes(columns)
        if path is None:
            memory = memoryview(mmap.mmap(-1, size))
        else:
            with path.open("r+b") as file:
                memory = memoryview(mmap.mmap(file.fileno(), size))
        starts = range(0, size, _row_bytes(columns))
        self._texts = [memory[start : start + _TEXT_BYTES] for start in starts]
        self._rows = [
            memory[start + _TEXT_BYTES : start + _row_bytes(columns)].cast("d") for start in starts
        ]

    @staticmethod
    def create_file(path: Path, rows: int, columns: int) -> None:
        """Creates the file with all numbers zero."""
        path.write_bytes(bytes(rows * _row_bytes(columns)))

    def row(self, index: int) -> "memoryview[float]":
        """The numbers of a row, which one process writes; a reader never sees half of a number."""
        return self._rows[index]

    def total(self) -> NDArray[np.float64]:
        """The sums over the rows, (columns,)."""
        total: NDArray[np.float64] = np.array(self._rows, np.float64).sum(axis=0)
        return total

    def write_text(self, index: int, text: str) -> None:
        """Replaces the text of a row, cut to 256 bytes."""
        self._texts[index][:] = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")

    def texts(self) -> list[str]:
        """The texts of the rows that have one."""
        # The cut may be within a character.
        texts = [bytes(text).rstrip(b"\0").decode(errors="ignore") for text in self._texts]
        return [text for text in texts if text]


def _row_bytes(columns: int) -> int:
    return _TEXT_BYTES + columns * _NUMBER_BYTES
