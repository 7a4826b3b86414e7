"""Numbers that several processes count in, each in a row of its own, and that any of them can read.

One writer to a row needs no lock, and a number in shared memory outlives a worker that is killed:
its replacement goes on in the same row.
"""

import mmap
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Of text beside each row's numbers.
_TEXT_BYTES = 256
_NUMBER_BYTES = 8


class SharedCounts:
    """Rows of float64 numbers, and a short text beside each row.

    Args:
        rows: one for each process that counts.
        columns: numbers in a row.
        path: file whose memory is shared, made by `create_file`; None: only this process counts.
    """

    def __init__(self, rows: int, columns: int, path: Path | None = None) -> None:
        size = rows * _row_bytes(columns)
        if path is None:
            self._memory = mmap.mmap(-1, size)
        else:
            with path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), size)
        self._columns = columns
        self._rows = rows

    @staticmethod
    def create_file(path: Path, rows: int, columns: int) -> None:
        """Makes the file, all zeros."""
        with path.open("wb") as file:
            file.truncate(rows * _row_bytes(columns))

    def row(self, index: int) -> "memoryview[float]":
        """A row's numbers, to be written by one process only.

        A number is stored at once, so that no reader sees half of one.
        """
        start = self._start(index)
        numbers = memoryview(self._memory)[start : start + self._columns * _NUMBER_BYTES]
        return numbers.cast("d")

    def total(self) -> NDArray[np.float64]:
        """The sums over the rows, (columns,)."""
        total = np.zeros(self._columns)
        for index in range(self._rows):
            total += np.frombuffer(self._memory, np.float64, self._columns, self._start(index))
        return total

    def _start(self, index: int) -> int:
        return index * _row_bytes(self._columns) + _TEXT_BYTES

    def write_text(self, index: int, text: str) -> None:
        """Sets a row's text; what is longer than there is room for is cut off."""
        start = index * _row_bytes(self._columns)
        encoded = text.encode()[:_TEXT_BYTES]
        self._memory[start : start + _TEXT_BYTES] = encoded.ljust(_TEXT_BYTES, b"\0")

    def texts(self) -> list[str]:
        """The texts of the rows that have one."""
        texts = []
        for index in range(self._rows):
            start = index * _row_bytes(self._columns)
            # One that is being written this moment may be cut within a character.
            with suppress(UnicodeDecodeError):
                texts.append(self._memory[start : start + _TEXT_BYTES].rstrip(b"\0").decode())
        return [text for text in texts if text]


def _row_bytes(columns: int) -> int:
    return _TEXT_BYTES + columns * _NUMBER_BYTES
