"""Numbers that each of several processes counts in a row of its own, and that all of them can read.

A row has one writer, so it needs no lock. Its memory outlives a worker that is killed, and the
replacement continues in the same row.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXTS = 64  # of a row


class SharedCounts:
    """Rows of float64 numbers with some short texts each.

    Args:
        rows: one for each process that counts.
        columns: the numbers in a row.
        path: a file of `create_file` to share; None keeps the counts in this process.
    """

    def __init__(self, rows: int, columns: int, path: Path | None = None) -> None:
        row = _row_type(columns)
        counts = np.zeros(rows, row) if path is None else np.memmap(path, row, "r+", shape=(rows,))
        self._texts, self._numbers = counts["texts"], counts["numbers"]
        self.rows = rows

    @staticmethod
    def create_file(path: Path, rows: int, columns: int) -> None:
        """Creates the file with all numbers zero."""
        np.zeros(rows, _row_type(columns)).tofile(path)

    def row(self, index: int) -> "memoryview[float]":
        """The numbers of a row, which one process writes; a reader never sees half of a number."""
        return memoryview(self._numbers[index])

    def total(self) -> NDArray[np.float64]:
        """The sums over the rows, (columns,)."""
        total: NDArray[np.float64] = self._numbers.sum(axis=0)
        return total

    def write_text(self, index: int, text: str, slot: int = 0) -> None:
        """Replaces a text of a row, cut to 256 bytes."""
        self._texts[index, slot] = text.encode()

    def texts_of(self, index: int) -> list[str]:
        """The texts of a row; empty where there is none."""
        # The cut may be within a character.
        return [text.decode(errors="ignore") for text in self._texts[index].tolist()]

    def texts(self) -> list[str]:
        """The texts of all rows."""
        return [text for index in range(self.rows) for text in self.texts_of(index) if text]


def _row_type(columns: int) -> np.dtype[np.void]:
    return np.dtype([("texts", "S256", TEXTS), ("numbers", np.float64, columns)])
