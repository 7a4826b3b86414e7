"""What the server writes on standard error: one line per message, and one per request.

Messages come through the standard library's `logging`, uvicorn's included. A request's line does
not: a `LogRecord` takes longer than all else that is done for it. Both end in the same writer,
which does not wait for whoever reads slowly.

No line has anything in it that a client sent, but for the method and the request id, which has
few characters to choose from.
"""

import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, Literal

import orjson

from app.settings import Settings
from app.telemetry.request_record import RequestRecord

Format = Literal["json", "console"]

# What a pipe takes in one piece: lines of several workers do not mix.
_PIECE_BYTES = 4096
# Of a request each, they fill a piece.
_LINES_AT_ONCE = 16
# Between two writes of the thread; a worker that is killed takes so much of its log along.
_PAUSE_SECONDS = 0.1
# Beyond so many, nobody reads, and memory is worth more than lines.
_MOST_LINES = 20_000
# For the last lines, if somebody reads them.
_FLUSH_SECONDS = 1.0


class LineWriter:
    """Writes lines to a file descriptor, never waits, and drops what nobody takes.

    Many lines are written at once, if they are taken at once; a thread writes the rest. It alone
    would not do: a busy event loop lets it go on only every few milliseconds. A line can be given
    as the function that makes it: making many one after the other takes a part of the time that it
    takes in the middle of requests.

    Args:
        descriptor: where to.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: deque[bytes | Callable[[], bytes]] = deque()
        self._dropped = 0
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._writing = threading.Lock()
        self._thread: threading.Thread | None = None
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(descriptor, select.POLLOUT)

    def write(self, line: bytes | Callable[[], bytes]) -> None:
        """Takes a line with its end, or what will make it; returns at once."""
        if len(self._lines) >= _MOST_LINES:
            self._dropped += 1
            return
        self._lines.append(line)
        if len(self._lines) >= _LINES_AT_ONCE and self._writing.acquire(blocking=False):
            try:
                # A pipe that can be written to takes so much without waiting.
                if self._poll is not None and self._poll.poll(0):
                    self._write_piece(self._next_piece())
            finally:
                self._writing.release()
        if not self._wake.is_set():
            self._wake.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Writes what is left, unless that takes too long."""
        deadline = time.monotonic() + _FLUSH_SECONDS
        self._hurry.set()
        while self._lines and time.monotonic() < deadline:
            time.sleep(0.001)
        # The last piece may still be on its way.
        if self._writing.acquire(timeout=max(0.0, deadline - time.monotonic())):
            self._writing.release()
        self._hurry.clear()

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._hurry.wait(_PAUSE_SECONDS)
            self._wake.clear()
            self._write_all()

    def _write_all(self) -> None:
        with self._writing:
            while self._lines:
                self._write_piece(self._next_piece())
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                logging.getLogger("dropserve").warning(
                    "%s lines of the log were dropped, since nobody read them", dropped
                )

    def _next_piece(self) -> bytearray:
        """As many lines, at least one, as can be written at once; only for who holds the lock."""
        piece = bytearray()
        while self._lines:
            line = self._lines[0]
            if not isinstance(line, bytes):
                self._lines[0] = line = line()
            if piece and len(piece) + len(line) > _PIECE_BYTES:
                break
            piece += line
            self._lines.popleft()
        return piece

    def _write_piece(self, piece: bytearray) -> None:
        try:
            while piece:
                del piece[: os.write(self._descriptor, piece)]
        except OSError:  # nobody is there any more, and there is nobody else to tell
            return


class LogLines(logging.Handler):
    """Writes the messages of `logging`.

    Args:
        writer: where to.
        log_format: JSON, or for people.
    """

    def __init__(self, writer: LineWriter, log_format: Format) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one."""
        try:
            self._writer.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # as every handler of the standard library
            self.handleError(record)

    def flush(self) -> None:
        """Writes what is left."""
        self._writer.flush()


class JsonFormatter(logging.Formatter):
    """One JSON object a message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {
            "time": _json_time(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "worker": os.getpid(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class ConsoleFormatter(logging.Formatter):
    """For people: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        text = f"{_clock_time(record.created)} {record.levelname:<7} {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class AccessLog:
    """Writes a line for each request.

    Args:
        writer: where to.
        log_format: JSON, or for people.
    """

    def __init__(self, writer: LineWriter, log_format: Format) -> None:
        self._writer = writer
        self._encode = _as_json if log_format == "json" else _for_people

    def write(self, ended: RequestRecord) -> None:
        """Writes one."""
        self._writer.write(partial(self._encode, ended, time.time()))


def _as_json(ended: RequestRecord, now: float) -> bytes:
    times = ended.timings
    known = _json_of_kind(os.getpid(), ended.method, ended.route, ended.status, ended.code)
    # The id has only characters that JSON leaves as they are.
    line = b'{"time":"%s",%s,"request_id":"%s","seconds":%.6f' % (
        _json_time(now).encode(),
        known,
        ended.request_id.encode(),
        ended.seconds,
    )
    if times.compute:
        line += b',"decode_seconds":%.6f,"queue_seconds":%.6f,"compute_seconds":%.6f' % (
            times.decode,
            times.queue,
            times.compute,
        )
    return line + b"}\n"


@lru_cache(maxsize=256)
def _json_of_kind(worker: int, method: str, route: str, status: int, code: str | None) -> bytes:
    """What the lines of many requests share, made once: a third to a half of a line's time."""
    shared = {
        "level": "info",
        "message": "request",
        "worker": worker,
        "method": method,
        "route": route,
        "status": status,
        "code": code,
    }
    return orjson.dumps(shared)[1:-1]


def _for_people(ended: RequestRecord, now: float) -> bytes:
    times = ended.timings
    split = ""
    if times.compute:
        split = (
            f" (decode {times.decode * 1e3:.2f}, queue {times.queue * 1e3:.2f}, "
            f"compute {times.compute * 1e3:.2f})"
        )
    return (
        f"{_clock_time(now)} INFO    {ended.method} {ended.route} {ended.status} "
        f"{ended.code or 'ok'}, {ended.seconds * 1e3:.2f} ms{split}, {ended.request_id}\n"
    ).encode()


def configure_logs(settings: Settings) -> AccessLog | None:
    """Sends messages to standard error as the settings say; returns what logs requests, if any."""
    log_format = chosen_format(settings)
    writer = LineWriter(sys.stderr.fileno())
    handler = LogLines(writer, log_format)
    root = logging.getLogger()
    root.handlers = [handler]
    for name in ("dropserve", "uvicorn"):
        logging.getLogger(name).setLevel(settings.log_level.upper())
    if not settings.access_log or settings.log_level not in ("debug", "info"):
        return None
    return AccessLog(writer, log_format)


def chosen_format(settings: Settings) -> Format:
    """The format of the log: for people only where a person may be looking."""
    if settings.log_format != "auto":
        return settings.log_format
    return "console" if sys.stderr.isatty() else "json"


def _json_time(seconds: float) -> str:
    second = int(seconds)
    return f"{_utc(second)}.{int((seconds - second) * 1000):03d}Z"


def _clock_time(seconds: float) -> str:
    second = int(seconds)
    return f"{_local(second)}.{int((seconds - second) * 1000):03d}"


# Formatted once for all lines of a second.
@lru_cache(maxsize=4)
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(maxsize=4)
def _local(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))
