"""Refuses again, for a fraction of the cost, what was refused as too much a moment ago.

Under overload nearly everything is refused, and clients repeat themselves: the next request has the
same head, byte for byte. To parse it, to make a task for it and to pass the application's layers
takes much longer than to ask whether it would be refused again. So the head of a refused request is
remembered together with that question. Where the answer is yes, the same head is refused before it
is parsed, and its body is skipped; all else takes the usual way.
"""

import re
from collections import OrderedDict
from functools import lru_cache
from random import shuffle
from typing import ClassVar, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from app.api.middleware import Refusal
from app.process.connections import BoundedProtocol
from app.process.file_limit import spare_connections
from app.process.skimming import BUFFER_BYTES, Skimmer
from app.process.turns import Turns
from app.settings import Settings
from app.telemetry.metrics import Metrics

MOST_REMEMBERED = 256  # heads, of which the one goes that was not seen for the longest time
_LONGEST_HEAD = 2048
# A larger body is refused by its first part, with its connection, rather than skipped.
LONGEST_BODY = 2**20
_LOOKED_AT = 2**14  # bytes of a body, which says how many images it has, or how large one is
# A connection whose body of that size was refused is read by the beginnings of its requests.
_SKIMMED_BODY = 2**16
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,9})\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
# With one of these the answer, or where the next request begins, depends on more than is known.
_UNUSUAL = re.compile(
    rb" HTTP/1\.0\r\n|\r\n(?:expect|origin|traceparent|transfer-encoding|upgrade|x-request-id) *:",
    re.IGNORECASE,
)


class _Remembered(NamedTuple):
    refusal: Refusal
    body_bytes: int
    closes: bool


class RefusingProtocol(BoundedProtocol):
    """One connection; `refusing_protocol` makes the class that has the settings."""

    remembered: ClassVar[OrderedDict[bytes, _Remembered]]
    # What has come over connections whose request has a head that is remembered, since `_ask_all`.
    asking: ClassVar[dict["RefusingProtocol", list[bytes]]]
    # Of the requests that are refused and not answered yet: the milliseconds that they would wait.
    unwritten: ClassVar[dict["RefusingProtocol", tuple[_Remembered, int]]]
    buffer: ClassVar[memoryview]  # see `Skimmer`
    _head = b""  # of the latest request, if it came in one piece with nothing before it
    _asked_at = 0.0  # on the loop's clock
    _skipped = 0  # bytes that are left of a refused request's body
    _skimmer: Skimmer | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.asking.pop(self, None)
        self._skimmer = None  # they refer to each other
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._ignores_input:
            return
        if self in self.asking:
            self.asking[self].append(data)
            return
        start = min(self._skipped, len(data))
        self._skipped -= start
        if start < len(data) and self._waits_for_head():
            end = data.find(_HEAD_END, start, start + _LONGEST_HEAD)
            self._head = data[start : end + len(_HEAD_END)] if end >= 0 else b""
            if self._head in self.remembered:
                if not self.asking:
                    self.loop.call_soon(self.loop.call_soon, self._ask_all)
                self.asking[self], self._asked_at = [data[start:]], self.loop.time()
                if self._skimmer is not None:
                    self.flow.pause_reading()
                return
        if start < len(data):
            super().data_received(data[start:])

    def eof_received(self) -> bool:  # type: ignore[override]
        self._ask_now()
        return super().eof_received()

    def shutdown(self) -> None:
        self._ask_now()
        super().shutdown()

    def _ask_now(self) -> None:
        if (received := self.asking.pop(self, None)) is not None:
            self._ask(received)
            self._write_all()

    def _ask_all(self) -> None:
        """Refuses or begins the requests of two turns of the event loop, in random order.

        A new connection is read a turn later than those that were kept, which would have taken all
        room by then, however many times it asks.
        """
        asking = list(self.asking.items())
        self.asking.clear()
        shuffle(asking)
        for protocol, received in asking:
            if not protocol.transport.is_closing():  # it was closed for another one
                protocol._ask(received)
        self._write_all()

    def _ask(self, received: list[bytes]) -> None:
        first, *others = received
        if self._skimmer is not None:
            self.flow.resume_reading()
        # One of each piece of input: a client that sends hundreds at once goes the usual way.
        start = self._refuse_again(first, len(self._head))
        if start < len(first):
            if start:
                self._write_all()
            super().data_received(first[start:])
        for data in others:
            self.data_received(data)
        self._drop_rest()

    def _waits_for_head(self) -> bool:
        """Whether the next input is another request, and nothing is before it."""
        cycle = self.cycle
        is_answered = cycle is None or (cycle.response_complete and not cycle.more_body)
        is_first = not (self.pipeline or self._rest or self._is_partial_head())
        return is_answered and is_first and not self.flow.write_paused

    def _refuse_again(self, data: bytes, body: int) -> int:
        """Refuses a request whose head is remembered, if it is still too much.

        Args:
            data: what was received.
            body: where the request's body begins.

        Returns:
            The bytes of the request that are there; 0: it is not refused.
        """
        known = self.remembered.get(self._head)
        if known is None or self.transport.is_closing():
            return 0
        received = min(known.body_bytes, len(data) - body)
        start = data[body : body + min(received, _LOOKED_AT)]
        if (wait := known.refusal.wait(start, known.body_bytes)) is None:
            return 0
        self.remembered.move_to_end(self._head)
        self.server_state.total_requests += 1
        self._waits_for = ("answer", None)  # or it would be closed as one that asked for nothing
        self.unwritten[self] = known, wait
        self._skipped = known.body_bytes - received
        if known.body_bytes > _SKIMMED_BODY and self._skimmer is None and self.scheme == "http":
            self.flow.pause_reading()
            asked = self._expects_body, self._drop_rest
            self._skimmer = Skimmer(self.transport, self, self.buffer, *asked)
            self.flow.resume_reading()
        if known.closes:
            self._write_all()
            self._ignores_input = True
            if self._skipped:
                self._linger()
            else:
                self.transport.close()
        size, self._head = len(self._head) + received, b""
        return size

    def _drop_rest(self) -> None:
        """Skips what has come in of a refused body, once all that was read is."""
        if self._skimmer is not None and self._skipped:
            self._skipped -= self._skimmer.drop(self._skipped)

    def _expects_body(self) -> bool:
        return self._body_left > 0

    def _write_all(self) -> None:
        """Writes the refusals that were decided.

        One after the other they take half as long: all that they need is in the caches.
        """
        lines, now = _head_lines(tuple(self.server_state.default_headers)), self.loop.time()
        for protocol, (known, wait) in self.unwritten.items():
            close = b"connection: close\r\n" if known.closes else b""
            answer = known.refusal.answer(wait, now - protocol._asked_at)
            protocol.transport.write(lines + close + answer)
        self.unwritten.clear()

    def on_response_complete(self) -> None:
        """Remembers the head of a request that was refused as too much."""
        head, self._head = self._head, b""
        refusing = self.cycle.scope["state"].get("refuse_like_this")
        if head and refusing is not None and not self.pipeline and not _UNUSUAL.search(head):
            length = _LENGTH.search(head)
            if length is not None and int(length[1]) <= LONGEST_BODY:
                closes = _CLOSE.search(head) is not None
                self.remembered[head] = _Remembered(refusing(), int(length[1]), closes)
                if len(self.remembered) > MOST_REMEMBERED:
                    self.remembered.popitem(last=False)
        super().on_response_complete()


@lru_cache(maxsize=4)  # uvicorn has others every second
def _head_lines(default_headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return STATUS_LINE[429] + b"".join(b"%s: %s\r\n" % header for header in default_headers)


def refusing_protocol(settings: Settings, metrics: Metrics | None = None) -> type[RefusingProtocol]:
    """The protocol with these settings, for uvicorn; `metrics` counts what it refuses."""
    remembered: OrderedDict[bytes, _Remembered] = OrderedDict()
    unwritten: dict[RefusingProtocol, tuple[_Remembered, int]] = {}
    members = {
        "settings": settings,
        "metrics": metrics,
        "remembered": remembered,
        "asking": {},
        "unwritten": unwritten,
        "buffer": memoryview(bytearray(BUFFER_BYTES)),
        "spare": {},
        "most_spare": spare_connections(settings),
        "turns": Turns(),
    }
    return type("RefusingProtocol", (RefusingProtocol,), members)
