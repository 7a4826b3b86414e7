"""A bounded buffer of log lines that never blocks: a timer of the event loop writes them."""

import asyncio
import logging
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress

# POSIX writes this much to a pipe whole or not at all, so lines of several workers do not mix.
_PIECE_BYTES = 4096
# How often the timer writes. A worker that is killed loses the lines of this time.
_TIMER_SECONDS = 0.02
# A reader this far behind has stalled; memory is then worth more than lines.
_MAX_LINES = 20_000
# How long `flush` waits for the reader.
_FLUSH_SECONDS = 1.0


class LogWriter:
    """Writes lines to a file descriptor without blocking, and drops and counts what does not fit.

    While an event loop runs, its timer writes what has collected, many lines in one system call.
    Without a loop, as at startup and in the supervisor, each line is written at once.

    Args:
        descriptor: the open file to write to; a pipe or terminal is opened once more.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = _open_unshared(descriptor)
        self._lines: deque[bytes] = deque()
        self._piece = bytearray()  # taken from `_lines` and not written yet
        self._dropped = 0
        # Formats the records that wait for the next write, if anybody does.
        self.format_waiting: Callable[[], Iterable[bytes]] = tuple
        self._is_scheduled = False
        # Threads log, too. A signal handler may flush while its own thread is writing.
        self._lock = threading.RLock()

    def write(self, line: bytes) -> None:
        """Takes a line that ends in a newline, and returns at once."""
        if len(self._lines) >= _MAX_LINES:
            self._write_pending()
        self._keep([line])
        self.schedule()

    def _keep(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if len(self._lines) < _MAX_LINES:
                self._lines.append(line)
            else:
                self._dropped += 1

    def schedule(self) -> None:
        """Writes at the next tick of the timer; at once where no event loop runs."""
        if not self._is_scheduled:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self._write_pending()
            else:
                self._schedule(loop)

    def flush(self) -> None:
        """Writes everything; gives up if the reader takes longer than a second."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        self._is_scheduled = False  # the loop that was to write may have ended
        while not self._write_pending() and (left := deadline - time.monotonic()) > 0:
            self._has_room(left)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = True
        loop.call_later(_TIMER_SECONDS, self._on_timer, loop)

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_scheduled = False
        if not self._write_pending():
            self._schedule(loop)

    def _write_pending(self) -> bool:
        """Writes what can be written without blocking; returns whether that was everything."""
        with self._lock:
            piece, lines = self._piece, self._lines
            self._keep(self.format_waiting())
            while lines or piece:
                # Whole lines, and at least one: a longer one is written in several pieces.
                while lines and (not piece or len(piece) + len(lines[0]) <= _PIECE_BYTES):
                    piece += lines.popleft()
                if not self._has_room(0):
                    return False
                try:
                    written = os.write(self._descriptor, piece[:_PIECE_BYTES])
                except BlockingIOError:  # another worker has taken the room
                    return False
                except OSError:  # the reader has gone, and there is nowhere to report it
                    written = len(piece)
                del piece[:written]
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            logging.getLogger("dropserve").warning(
                "%s lines of the log were dropped because nobody read them", dropped
            )
        return True

    def _has_room(self, seconds: float) -> bool:
        """Waits this long until the reader has room; a pipe that has any takes a whole piece."""
        if not hasattr(select, "poll"):  # on Windows
            return True
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))


def _open_unshared(descriptor: int) -> int:
    """Opens a pipe or terminal once more, so that writing to it never blocks.

    Between this worker's poll and its write another worker may fill the pipe. O_NONBLOCK helps, but
    cannot be set on what was inherited: the other processes that have it open, such as the shell,
    would get it as well.

    Returns:
        The new descriptor; the given one for a regular file, which has a position to keep, and for
        whatever cannot be opened again: a socket, or anything outside of Linux.
    """
    mode = os.fstat(descriptor).st_mode
    if sys.platform == "linux" and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
        with suppress(OSError):
            return os.open(f"/proc/self/fd/{descriptor}", flags)
    return descriptor
