"""The load generator: a few requests in turn over kept connections, and what came of each.

It must cost much less than the server's work, or it measures itself: bare protocols on uvloop,
httptools' parser, and the bytes of the requests made beforehand. wrk, written in C, finds the same
rates on the same machine.
"""

import asyncio
import gc
import itertools
import json
import time
from abc import ABC, abstractmethod
from array import array
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from app.client.bearer import bearer

# How long answers are waited for after the last request was sent.
DRAIN_SECONDS = 10.0
# A server that refuses is asked again only so often, by each connection.
_RETRY_SECONDS = 0.05
# What an open loop opens at most; file descriptors often end at 1024.
_MOST_CONNECTIONS = 512
# uvloop's timers count milliseconds: what is due sooner than this is waited for by looking.
_TIMER_SECONDS = 0.002

_ADDRESS = "http://127.0.0.1:8000"

_clock = time.perf_counter


class LoadClientError(Exception):
    """The load cannot be generated; the text is one line for the user."""


@dataclass(frozen=True)
class Target:
    """Where the requests go, and the bytes of each."""

    host: str
    port: int
    is_tls: bool
    requests: tuple[bytes, ...]


def post(
    url: str, bodies: Sequence[bytes], content_type: str, api_key: str | None = None
) -> Target:
    """POSTs of bodies, which are sent in turn, with the key that the server wants, if it does.

    Raises:
        LoadClientError: the address is none of HTTP, or the key cannot be one.
    """
    try:
        key = f"Authorization: {bearer(api_key)}\r\n" if api_key else ""
    except ValueError as error:
        raise LoadClientError(str(error)) from error
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise LoadClientError(f"{url} is no address such as {_ADDRESS}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise LoadClientError(f"{url} is no address such as {_ADDRESS}")
    is_tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
        f"Content-Type: {content_type}\r\n{key}Content-Length: "
    ).encode()
    requests = tuple(b"%s%d\r\n\r\n%s" % (head, len(body), body) for body in bodies)
    return Target(parts.hostname, port or (443 if is_tls else 80), is_tls, requests)


@dataclass
class Measurement:
    """What came of the requests of one load.

    Attributes:
        seconds: how long requests were sent.
        in_time: successes that came before the end: what the rate counts.
        latencies: by outcome, "200" or "429 overloaded": seconds of each answer, late ones too.
        failures: requests without an answer, by reason.
        lateness: open loop only: seconds between a request's time and its being handed over.
        generator_share: closed loop only: how much of one core the generator took.
    """

    seconds: float
    in_time: int = 0
    latencies: dict[str, "array[float]"] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    lateness: "array[float]" = field(default_factory=lambda: array("d"))
    generator_share: float | None = None


@dataclass(frozen=True)
class Schedule:
    """Request number i is due i / rate seconds after the start, whatever the server does."""

    rate: float
    seconds: float

    @property
    def total(self) -> int:
        """How many requests there are: at least the first."""
        return max(1, round(self.rate * self.seconds))

    def due(self, elapsed: float) -> int:
        """How many requests are due so long after the start."""
        return min(self.total, int(elapsed * self.rate) + 1)

    def time_of(self, number: int) -> float:
        """When a request is due, seconds after the start; the first is number 0."""
        return number / self.rate


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that at least so many per cent of the values do not exceed.

    Args:
        ordered: at least one value, ascending.
        percent: 1 to 100.
    """
    return ordered[-(-percent * len(ordered) // 100) - 1]


async def run_closed_loop(target: Target, connections: int, seconds: float) -> Measurement:
    """Each connection sends its next request when it has the answer to the one before."""
    return await _measured(_ClosedLoop(target, seconds, connections))


async def run_open_loop(
    target: Target, rate: float, seconds: float, *, has_own_core: bool
) -> Measurement:
    """Requests are sent at a constant rate, over as many connections as that takes.

    A request that finds the server slow, or all connections taken, still counts from the moment it
    was due: a generator that waits for the server ("coordinated omission") would leave out the
    very requests that suffer.

    Args:
        target: what is sent.
        rate: requests a second.
        seconds: how long.
        has_own_core: requests are then sent to the microsecond by a busy loop, and otherwise, so as
            not to take the server's time, by a timer that counts milliseconds.
    """
    return await _measured(_OpenLoop(target, Schedule(rate, seconds), has_own_core))


async def _measured(load: "_Load") -> Measurement:
    # The generator makes no cycles, and a collection would be counted as the server's latency.
    gc.collect()
    gc.disable()
    try:
        await load.run()
    finally:
        gc.enable()
        await load.abort()
    return load.measurement


class _Connection(asyncio.Protocol):
    """One connection, with at most one request on its way."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._error_body = b""
        # When the request on its way was due; None: there is none.
        self.since: float | None = None
        self.has_failed = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._parser = httptools.HttpResponseParser(self)
        self._load.connections.add(self)
        self._load.free(self)

    def send(self, since: float) -> None:
        """Sends the request, which counts from the given moment."""
        self.since = since
        self._transport.write(next(self._load.requests))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            self.fail("not HTTP")

    def on_body(self, body: bytes) -> None:
        if self._parser.get_status_code() >= 300:
            self._error_body += body

    def on_message_complete(self) -> None:
        since, self.since = self.since, None
        if since is None:  # an answer to nothing
            self._transport.abort()
            return
        status = self._parser.get_status_code()
        self._load.record(status, self._error_body, since)
        self._error_body = b""
        if self._parser.should_keep_alive():
            self._load.free(self)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.fail("connection closed")
        self._load.connections.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def fail(self, reason: str) -> None:
        """Counts the request on its way, if there is one, as failed, and ends the connection."""
        if self.since is not None:
            self.since = None
            self.has_failed = True
            self._load.measurement.failures[reason] += 1
        self._transport.abort()

    def close(self) -> None:
        """Ends a connection that is not needed any more."""
        self._transport.close()


class _Load(ABC):
    """What the two loops share: connections, counting and the end."""

    def __init__(self, target: Target, seconds: float) -> None:
        self.target = target
        self.requests = itertools.cycle(target.requests)
        self.measurement = Measurement(seconds)
        self.connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start = _clock()
        self._end = self._start + seconds

    @abstractmethod
    async def run(self) -> None:
        """Sends for as long as was asked, and waits for the answers, though not for ever."""

    @abstractmethod
    def free(self, connection: _Connection) -> None:
        """Gives a connection that has nothing on its way the next request, or rest."""

    def record(self, status: int, error_body: bytes, since: float) -> None:
        """Counts an answer that has just come."""
        now = _clock()
        measurement = self.measurement
        if status < 300:
            outcome = str(status)
            measurement.in_time += now <= self._end
        else:
            outcome = _name_error(status, error_body)
        latencies = measurement.latencies.get(outcome)
        if latencies is None:
            latencies = measurement.latencies[outcome] = array("d")
        latencies.append(now - since)

    async def abort(self) -> None:
        """Drops what is still open; whatever is on its way had its time."""
        for connection in list(self.connections):
            connection.fail("no answer")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self) -> _Connection:
        """A new connection, which `free` has had already.

        Raises:
            OSError: there is none to be had.
        """
        target = self.target
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self), target.host, target.port, ssl=target.is_tls or None
        )
        return connection

    async def _drain(self) -> None:
        """Waits until every connection has its last answer, or long enough."""
        deadline = _clock() + DRAIN_SECONDS
        while self._tasks and (left := deadline - _clock()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _ClosedLoop(_Load):
    def __init__(self, target: Target, seconds: float, connections: int) -> None:
        super().__init__(target, seconds)
        self._count = connections

    async def run(self) -> None:
        before = time.process_time()
        self._start = _clock()
        self._end = self._start + self.measurement.seconds
        for _ in range(self._count):
            self._spawn(self._stay_connected())
        await asyncio.sleep(self.measurement.seconds)
        self.measurement.generator_share = (time.process_time() - before) / (_clock() - self._start)
        await self._drain()

    def free(self, connection: _Connection) -> None:
        now = _clock()
        if now < self._end:
            connection.send(now)
        else:
            connection.close()

    async def _stay_connected(self) -> None:
        while _clock() < self._end:
            try:
                connection = await self._connect()
            except OSError as error:
                self.measurement.failures[_name_refusal(error)] += 1
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            await connection.closed
            if connection.has_failed:
                await asyncio.sleep(_RETRY_SECONDS)


class _OpenLoop(_Load):
    def __init__(self, target: Target, schedule: Schedule, has_own_core: bool) -> None:
        super().__init__(target, schedule.seconds)
        self._schedule = schedule
        self._has_own_core = has_own_core
        self._handed_over = 0
        self._opening = 0
        self._idle: list[_Connection] = []
        # When the requests that no connection was free for were due.
        self._waiting: deque[float] = deque()
        self._all_handed_over = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        self._start = _clock()
        self._end = self._start + self.measurement.seconds
        self._tick()
        await self._all_handed_over
        for connection in self._idle:
            connection.close()
        await self._drain()
        if self._waiting:
            self.measurement.failures["no answer"] += len(self._waiting)
            self._waiting.clear()

    def free(self, connection: _Connection) -> None:
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif self._all_handed_over.done():
            connection.close()
        else:
            self._idle.append(connection)

    def _tick(self) -> None:
        """Hands over what is due, and comes back when more is."""
        now = _clock()
        for number in range(self._handed_over, self._schedule.due(now - self._start)):
            since = self._start + self._schedule.time_of(number)
            self.measurement.lateness.append(now - since)
            self._hand_over(since)
            self._handed_over = number + 1
        loop = asyncio.get_running_loop()
        if self._handed_over == self._schedule.total:
            self._all_handed_over.set_result(None)
            return
        wait = self._start + self._schedule.time_of(self._handed_over) - now
        if not self._has_own_core:
            loop.call_later(max(wait, 0.001), self._tick)
        elif wait > _TIMER_SECONDS:
            loop.call_later(wait - _TIMER_SECONDS / 2, self._tick)
        else:
            loop.call_soon(self._tick)

    def _hand_over(self, since: float) -> None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed.done():
                connection.send(since)
                return
        self._waiting.append(since)
        self._open_one_more()

    def _open_one_more(self) -> None:
        if len(self.connections) + self._opening < _MOST_CONNECTIONS:
            self._opening += 1
            self._spawn(self._stay_connected())

    async def _stay_connected(self) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            self._opening -= 1
            if self._waiting:  # what this connection was for
                self._waiting.popleft()
                self.measurement.failures[_name_refusal(error)] += 1
        else:
            self._opening -= 1
            await connection.closed
        if self._waiting:
            self._open_one_more()


def _name_error(status: int, body: bytes) -> str:
    """The status, and the code where the body is the one error shape."""
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, LookupError, TypeError):
        return str(status)
    return f"{status} {code}"


def _name_refusal(error: OSError) -> str:
    return "connection refused" if isinstance(error, ConnectionRefusedError) else "cannot connect"
