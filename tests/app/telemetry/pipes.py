"""A pipe that a `LogWriter` writes to, and a test reads."""

import os
from contextlib import suppress

from app.telemetry.log_writer import LogWriter


class Pipe:
    """Both ends of a pipe; its reader takes nothing until it is asked to."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.writer = LogWriter(self.writing)

    def read(self) -> str:
        """Everything that has been written so far."""
        self.writer.flush()
        return self.read_now().decode()

    def read_now(self) -> bytes:
        """What is in the pipe at the moment."""
        taken = bytearray()
        with suppress(BlockingIOError):
            while some := os.read(self.reading, 65536):
                taken += some
        return bytes(taken)
