"""What the server logs on standard error: messages, and one line for each request.

Messages come through the standard library's `logging`, uvicorn's included. Request lines do not,
because a `LogRecord` costs more than the rest of the line. Both end in the same `LogWriter`.

Of what a client sends, lines contain only the method, a request id of restricted characters, and
the id of its trace.
"""

import logging
import os
import sys
import time
from functools import lru_cache
from typing import Literal

import orjson

from app.settings import Settings
from app.telemetry.log_writer import LogWriter
from app.telemetry.request_record import RequestRecord, Timings

LogFormat = Literal["json", "console"]

_CONSOLE_FORMATTER = logging.Formatter(
    "%(asctime)s.%(msecs)03d %(levelname)-7s %(message)s", datefmt="%H:%M:%S"
)
_JSON_STAGES = "".join(f',"{stage}_seconds":%.6f' for stage in Timings._fields)


def configure_logs(settings: Settings) -> "AccessLog | None":
    """Sends messages to standard error; returns the access log unless the settings turn it off."""
    log_format = chosen_format(settings)
    writer = LogWriter(sys.stderr.fileno())
    logging.getLogger().handlers = [LogHandler(writer, log_format)]
    for name in ("dropserve", "uvicorn"):
        logging.getLogger(name).setLevel(settings.log_level.upper())
    if not settings.access_log or settings.log_level not in ("debug", "info"):
        return None
    return AccessLog(writer, log_format)


def chosen_format(settings: Settings) -> LogFormat:
    """Resolves `auto`: console on a terminal, JSON elsewhere."""
    if settings.log_format != "auto":
        return settings.log_format
    return "console" if sys.stderr.isatty() else "json"


class LogHandler(logging.Handler):
    """Passes the messages of `logging` to a writer; in JSON each is one line."""

    def __init__(self, writer: LogWriter, log_format: LogFormat) -> None:
        super().__init__()
        self._writer = writer
        self.setFormatter(JsonFormatter() if log_format == "json" else _CONSOLE_FORMATTER)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except Exception:  # as every handler of the standard library
            self.handleError(record)

    def flush(self) -> None:
        self._writer.flush()


class JsonFormatter(logging.Formatter):
    """Formats a message as one JSON object; a traceback is its `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _json_time(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "worker": os.getpid(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class AccessLog:
    """Writes a line for each request.

    Lines are formatted when they are written, many one after the other: in the middle of a request
    each would take 3 microseconds more, with its code and data out of the processor's caches.
    """

    def __init__(self, writer: LogWriter, log_format: LogFormat) -> None:
        self._writer = writer
        self._format = _json_line if log_format == "json" else _console_line
        self._records: list[tuple[RequestRecord, float]] = []
        writer.format_waiting = self._format_waiting

    def write(self, record: RequestRecord) -> None:
        """Logs a finished request."""
        self._records.append((record, time.time()))
        self._writer.schedule()

    def _format_waiting(self) -> list[bytes]:
        records, self._records = self._records, []
        return [self._format(record, now) for record, now in records]


def _json_line(record: RequestRecord, now: float) -> bytes:
    request_id, method, route, status, code, seconds, timings, model, trace_id = record
    shared = _shared_json(os.getpid(), method, route, status, code, model)
    stages = ""
    if timings.compute:
        stages = _JSON_STAGES % timings
    trace = "" if trace_id is None else f',"trace_id":"{trace_id}"'
    # The ids have only characters that JSON leaves as they are.
    return (
        f'{{"time":"{_json_time(now)}",{shared},"request_id":"{request_id}"{trace},'
        f'"seconds":{seconds:.6f}{stages}}}\n'
    ).encode()


@lru_cache(maxsize=256)
def _shared_json(
    worker: int, method: str, route: str, status: int, code: str | None, model: str | None
) -> str:
    """The part that the lines of many requests share; caching it saves a third of a line's time."""
    shared = {"level": "info", "message": "request", "worker": worker}
    shared |= {"method": method, "route": route, "status": status, "code": code}
    if model is not None:
        shared["model"] = model
    return orjson.dumps(shared)[1:-1].decode()


def _console_line(record: RequestRecord, now: float) -> bytes:
    timings = record.timings
    stages = ""
    if timings.compute:
        decode, queue, compute = (seconds * 1e3 for seconds in timings)
        stages = f" (decode {decode:.2f}, queue {queue:.2f}, compute {compute:.2f})"
    result = record.code or "ok"
    if record.model is not None:
        result = f"{record.model} {result}"
    trace = "" if record.trace_id is None else f", trace {record.trace_id}"
    return (
        f"{_local(int(now))}.{int(now % 1 * 1000):03d} INFO    "
        f"{record.method} {record.route} {record.status} "
        f"{result}, {record.seconds * 1e3:.2f} ms{stages}, {record.request_id}{trace}\n"
    ).encode()


def _json_time(seconds: float) -> str:
    return f"{_utc(int(seconds))}.{int(seconds % 1 * 1000):03d}Z"


@lru_cache(maxsize=4)  # most lines share their second
def _utc(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


@lru_cache(maxsize=4)
def _local(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))
