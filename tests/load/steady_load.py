"""Connections that send without a pause, and record each answer, each failure and its time."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.load.servers import sample

_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Answer:
    """A complete answer; times on the monotonic clock."""

    began: float
    ended: float
    status: int
    version: str


@dataclass
class Seen:
    """What the connections recorded.

    Attributes:
        answers: the complete ones.
        failures: local port of a connection that was left without a complete answer, and why.
        refused: attempts to connect that nobody accepted.
    """

    answers: list[Answer] = field(default_factory=list)
    failures: list[tuple[int, str]] = field(default_factory=list)
    refused: int = 0

    def unexpected(self) -> int:
        """Failures and answers other than 200."""
        return len(self.failures) + sum(answer.status != 200 for answer in self.answers)


@asynccontextmanager
async def steady_load(
    address: str, connections: int, *, model: str = "", body: bytes = sample("7.png")
) -> AsyncIterator[Seen]:
    """Requests 50 passes on every connection, again and again, until the block ends.

    Args:
        address: of the server.
        connections: how many.
        model: the beginning of the path, such as `/models/NAME`; without it the default's.
        body: an image, or JSON.
    """
    host, port = address.removeprefix("http://").split(":")
    seen, kind = Seen(), "application/json" if body.startswith(b"{") else "image/png"
    head = (
        f"POST {model}/predict/mc?seed=1 HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    over = asyncio.Event()
    tasks = [
        asyncio.create_task(_keep_sending(host, int(port), head.encode() + body, seen, over))
        for _ in range(connections)
    ]
    try:
        yield seen
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def _keep_sending(
    host: str, port: int, request: bytes, seen: Seen, over: asyncio.Event
) -> None:
    while not over.is_set():
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 0.5)
        except OSError:  # TimeoutError is one: the kernel neither accepts nor refuses
            seen.refused += 1
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        own_port = writer.get_extra_info("sockname")[1]
        try:
            is_kept = True
            while is_kept and not over.is_set():
                is_kept = await _exchange(reader, writer, request, seen)
        # RuntimeError is uvloop's, of a connection that was closed before its request.
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            seen.failures.append((own_port, type(error).__name__))
        finally:
            writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, seen: Seen
) -> bool:
    """One request and its answer; whether the connection stays."""
    began = time.monotonic()
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
    answer = json.loads(await reader.readexactly(length))
    version = answer["model"]["version"] if "model" in answer else ""
    seen.answers.append(Answer(began, time.monotonic(), int(head.split()[1]), version))
    return b"\r\nconnection: close" not in head
