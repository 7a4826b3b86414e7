"""The log's buffer: no reader, however slow, blocks it, and it reports what it had to drop."""

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from app.telemetry.log_writer import LogWriter
from tests.app.telemetry.pipes import Pipe

PATIENCE_SECONDS = 30.0
LINE = b"x" * 99 + b"\n"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="opens /proc/self/fd")


@pytest.fixture
def pipe() -> Pipe:
    return Pipe()


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The messages that reach the root logger."""
    messages: list[str] = []

    class Warned(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    root = logging.getLogger()
    before, root.handlers = root.handlers, [Warned()]
    yield messages
    root.handlers = before


async def read_all(pipe: Pipe, size: int) -> bytes:
    """Reads this many bytes, while the loop goes on."""
    taken = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(taken) < size:
        assert time.monotonic() < deadline, f"{len(taken)} of {size} bytes"
        taken += pipe.read_now()
        await asyncio.sleep(0.001)
    return taken


def test_a_reader_that_stalls_blocks_nobody_and_learns_how_much_it_missed(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    monkeypatch.setattr("app.telemetry.log_writer._MAX_LINES", 1000)
    monkeypatch.setattr("app.telemetry.log_writer._FLUSH_SECONDS", 0.01)
    for _ in range(5000):  # far more than a pipe holds, and nobody reads
        pipe.writer.write(LINE)
    pipe.writer.flush()

    taken = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not warned:
        assert time.monotonic() < deadline
        taken += pipe.read_now()
        pipe.writer.write(LINE)
    (message,) = warned
    assert int(message.split()[0]) >= 5000 - 1000 - 65536 * 2 // 100
    assert set(taken.split(b"\n")[:-1]) == {LINE[:-1]}


async def test_a_reader_that_stalls_does_not_block_the_loop(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    monkeypatch.setattr("app.telemetry.log_writer._MAX_LINES", 1000)
    for _ in range(10):
        for _ in range(500):
            pipe.writer.write(LINE)
        await asyncio.sleep(0.03)  # the timer fires, and finds the pipe full
    assert warned == []

    taken = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not warned:
        assert time.monotonic() < deadline
        taken += pipe.read_now()
        await asyncio.sleep(0.001)
    (message,) = warned
    taken += pipe.read_now()
    assert len(taken) // len(LINE) + int(message.split()[0]) == 5000
    assert taken == LINE * (len(taken) // len(LINE))


@pytest.mark.parametrize("size", [4096, 4097, 5000, 300_000])
@pytest.mark.parametrize("can_open_again", [True, False])
async def test_a_long_line_waits_for_room_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch, size: int, can_open_again: bool
) -> None:
    if not can_open_again:
        monkeypatch.setattr("app.telemetry.log_writer._open_unshared", lambda shared: shared)
    pipe = Pipe()
    lines = [LINE] * 640 + [b"y" * (size - 1) + b"\n", LINE]  # the pipe is then nearly full
    for line in lines:
        pipe.writer.write(line)
    await asyncio.sleep(0.05)

    expected = b"".join(lines)
    assert await read_all(pipe, len(expected)) == expected


@linux_only
async def test_another_worker_may_take_the_room_that_the_poll_saw(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LogWriter, "_has_room", lambda *_: True)
    for _ in range(1000):
        pipe.writer.write(LINE)
    await asyncio.sleep(0.05)

    assert await read_all(pipe, 100_000) == LINE * 1000


@linux_only
def test_the_inherited_descriptor_stays_blocking(pipe: Pipe) -> None:
    pipe.writer.write(LINE)

    assert os.get_blocking(pipe.writing)
    assert pipe.read_now() == LINE


@linux_only
def test_a_terminal_that_stalls_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.log_writer._FLUSH_SECONDS", 0.01)
    terminal, stderr = os.openpty()
    writer = LogWriter(stderr)
    for _ in range(5000):
        writer.write(LINE)
    writer.flush()

    assert os.read(terminal, 4096).startswith(b"xxx")
    os.close(terminal)
    os.close(stderr)


def test_a_socket_that_stalls_blocks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.log_writer._FLUSH_SECONDS", 0.01)
    reader, stderr = socket.socketpair()  # as systemd's journal
    with reader, stderr:
        writer = LogWriter(stderr.fileno())
        for _ in range(10_000):
            writer.write(LINE)
        writer.flush()

        assert reader.recv(4096).startswith(LINE)


def test_a_reader_that_has_gone_stops_nobody(pipe: Pipe) -> None:
    pipe.writer.write(LINE)
    os.close(pipe.reading)
    for _ in range(1000):
        pipe.writer.write(LINE)
    pipe.writer.flush()


def test_a_file_is_written_where_others_left_off(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb", buffering=0) as opened:
        opened.write(b"before\n")
        writer = LogWriter(opened.fileno())
        writer.write(b"ours\n")
        opened.write(b"after\n")
        writer.write(b"ours again\n")

    assert (tmp_path / "log").read_bytes() == b"before\nours\nafter\nours again\n"


def test_lines_of_several_workers_stay_whole() -> None:
    reading, writing = os.pipe()
    writers = [LogWriter(writing) for _ in range(4)]
    lines = {f"{name}{'-' * 300}{name}\n".encode() for name in "abcd"}

    def write(writer: LogWriter, line: bytes) -> None:
        for _ in range(500):
            writer.write(line)
        writer.flush()

    threads = [
        threading.Thread(target=write, args=pair) for pair in zip(writers, lines, strict=True)
    ]
    for thread in threads:
        thread.start()
    taken = bytearray()
    while len(taken) < 4 * 500 * 303:
        taken += os.read(reading, 65536)
    for thread in threads:
        thread.join()
    os.close(writing)
    os.close(reading)

    assert {*bytes(taken).splitlines(keepends=True)} == lines
    assert len(taken.splitlines()) == 2000


async def in_a_loop(write: Callable[[], None]) -> None:
    write()


@pytest.mark.parametrize("has_loop", [False, True])
def test_no_line_is_lost_while_the_timer_has_no_turn(tmp_path: Path, has_loop: bool) -> None:
    file = tmp_path / "log"
    lines = [b"%06d %s\n" % (number, b"x" * 250) for number in range(60_000)]
    with file.open("wb") as opened:
        writer = LogWriter(opened.fileno())

        def write() -> None:
            for line in lines:  # three times as many as the buffer holds
                writer.write(line)

        if has_loop:
            asyncio.run(in_a_loop(write))
        else:
            write()
        writer.flush()

    assert file.read_bytes() == b"".join(lines)


async def test_threads_and_the_loop_share_the_buffer(pipe: Pipe) -> None:
    def write(name: bytes) -> None:
        for number in range(100):
            pipe.writer.write(b"%s %d\n" % (name, number))

    others: list[Awaitable[None]] = [asyncio.to_thread(write, name) for name in (b"a", b"b", b"c")]
    write(b"loop")
    await asyncio.gather(*others)

    text = await read_all(pipe, sum(100 * len(name) + 290 for name in (b"a", b"b", b"c", b"loop")))
    for name in (b"a", b"b", b"c", b"loop"):
        own = [line for line in text.splitlines() if line.startswith(name + b" ")]
        assert own == [b"%s %d" % (name, number) for number in range(100)]


def test_what_a_loop_left_is_written_at_the_end(pipe: Pipe) -> None:
    asyncio.run(in_a_loop(lambda: pipe.writer.write(b"first\n")))
    assert pipe.read_now() == b""  # its timer has not fired
    pipe.writer.write(b"second\n")

    assert pipe.read() == "first\nsecond\n"
    pipe.writer.write(b"third\n")
    assert pipe.read_now() == b"third\n"
