"""uvicorn's protocol without its faults in pipelined, lost and half-closed connections.

uvicorn parses whatever it receives, thousands of requests in one chunk, and reads on after each
answer; of a lost connection it gives up only the latest request; a client that has closed its
sending side gets no answer. Here a few requests are parsed at a time, and what follows is held
until they are answered; every request of a lost connection is given up; and a client that sends
nothing more is answered if that does not take long.

Besides the callbacks that are overridden, this uses uvicorn's `FlowControl`, `cycle` (the latest
request whose headers are complete) and `pipeline` (it and others that wait for an earlier answer).
"""

import asyncio
import select
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

# For a client that has closed its sending side or is gone: both look alike.
_HALF_CLOSED_SECONDS = 0.05
# Requests that wait for the answer to an earlier one, beyond which input is held; the input is
# parsed in pieces up to the first head that ends behind these bytes: eight requests or so.
_MOST_WAITING = 4
_PIECE_BYTES = 128
_SMALL = 8192  # nearly every request
_HEAD_END = b"\r\n\r\n"
# By all connections together; one that would hold more is closed.
_MOST_HELD_BYTES = 32 * 2**20


class _Flow(FlowControl):
    on_resume: Callable[[], object] | None = (
        None  # while input is held; called instead of reading on
    )

    def resume_reading(self) -> None:
        if self.read_paused:
            (self.on_resume or super().resume_reading)()


class PipeliningProtocol(HttpToolsProtocol):
    """One connection; a subclass parses in `_feed`."""

    held_bytes: ClassVar[int] = 0  # by all connections
    flow: _Flow
    _body_left = 0  # of the latest request, as far as its length was declared
    _rest = b""
    _held = 0  # the rest, and the bodies of requests that wait
    # The requests ahead of the latest one, since there last were any.
    _ahead: tuple[RequestResponseCycle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up()
        self.pipeline.clear()
        self._release()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection for a short time if its requests are whole."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or cycle.disconnected:
            return False
        cycle.keep_alive = False
        self.loop.call_later(_HALF_CLOSED_SECONDS, self._end_unless_answered)
        return True

    def _end_unless_answered(self) -> None:
        if not self.transport.is_closing():
            self._abort()

    def data_received(self, data: bytes) -> None:
        size, start = len(data), 0
        if len(self.pipeline) >= _MOST_WAITING:
            self._hold(data)
        elif size <= self._body_left or (size <= _SMALL and data.count(_HEAD_END) < 2):
            self._feed(data)
        else:
            while start < size and len(self.pipeline) < _MOST_WAITING:
                # A body is not searched, which would take longer than to receive it.
                behind = start + max(_PIECE_BYTES, self._body_left)
                end = data.find(_HEAD_END, behind, behind + _SMALL)
                end = behind + _SMALL if end < 0 else end + len(_HEAD_END)
                self._feed(data[start:end])
                start = end
            if start < size:
                self._hold(data[start:])
        if self.pipeline and self._waiting_bytes() > HIGH_WATER_LIMIT:
            self._hold(b"")

    _feed = HttpToolsProtocol.data_received

    def on_headers_complete(self) -> None:
        latest = self.cycle
        super().on_headers_complete()
        lengths = (value for name, value in self.headers if name == b"content-length")
        self._body_left = int(next(lengths, 0))
        if self.pipeline:
            ahead = (*self._ahead, latest)
            self._ahead = tuple(cycle for cycle in ahead if not cycle.response_complete)
            # uvicorn has paused it, and would not see that the client goes away.
            self.flow.resume_reading()

    def on_body(self, body: bytes) -> None:
        self._body_left -= len(body)
        super().on_body(body)

    def _waiting_bytes(self) -> int:
        return sum(len(cycle.body) for cycle, _ in self.pipeline)

    def _hold(self, data: bytes) -> None:
        """Keeps input until the requests before it are answered, and reads nothing more."""
        self._rest += data
        held = len(self._rest) + self._waiting_bytes()
        type(self).held_bytes += held - self._held
        self._held = held
        self.flow.pause_reading()
        # Not at once, since uvicorn may be in the middle of its next step.
        self.flow.on_resume = partial(self.loop.call_soon, self._feed_rest)
        if self.held_bytes > _MOST_HELD_BYTES:
            self._abort()

    def _feed_rest(self) -> None:
        if self.flow.on_resume and not self.pipeline and not self.transport.is_closing():
            rest = self._release()
            self.flow.resume_reading()
            if rest:
                self.data_received(rest)

    def _release(self) -> bytes:
        rest, self._rest = self._rest, b""
        type(self).held_bytes -= self._held
        self._held, self.flow.on_resume = 0, None
        return rest

    def _is_reset(self) -> bool:
        """Whether the client is gone; the event loop sees that only while it reads or writes."""
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        return bool(poll.poll(0))

    def _give_up(self) -> None:
        """Lets every request that is not answered see that its client is gone."""
        for cycle in (*self._ahead, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _abort(self) -> None:
        """Ends the connection and its requests now; it no longer counts as one."""
        self._give_up()
        self.connections.discard(self)
        self.transport.abort()
