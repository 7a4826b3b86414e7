"""Reads requests by their beginnings, so that the large body of a refused one is not copied.

To receive a photo of 250 kB takes longer than to refuse it: the kernel copies it, and the event
loop again. Linux drops what has come in over TCP where `recv` gets MSG_TRUNC; elsewhere it is
copied once, to where nobody reads.
"""

import asyncio
import socket
from collections.abc import Callable

BEGINNING_BYTES, BUFFER_BYTES = 2**14 + 2048, 2**18
_dropped = bytearray(BUFFER_BYTES)
_DROP = socket.MSG_TRUNC | getattr(socket, "MSG_DONTWAIT", 0)


class Skimmer(asyncio.BufferedProtocol):
    """Takes the place of a protocol, which must not be reading; not for TLS.

    Args:
        transport: of the connection.
        protocol: gets all that is received: of the beginning of a request no more at once than must
            be looked at, since the rest can still be dropped.
        buffer: of `BUFFER_BYTES`; of all connections of an event loop, which reads one at a time.
        expects_body: whether the next input is the body of a request that was begun.
        drop_rest: called after each input.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        protocol: asyncio.Protocol,
        buffer: memoryview,
        expects_body: Callable[[], bool],
        drop_rest: Callable[[], None],
    ) -> None:
        self._transport, self._buffer = transport, buffer
        self._data_received = protocol.data_received
        self._expects_body, self._drop_rest = expects_body, drop_rest
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer if self._expects_body() else self._buffer[:BEGINNING_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        self._data_received(bytes(self._buffer[:nbytes]))
        self._drop_rest()

    def drop(self, most: int) -> int:
        """Drops what has come in, up to a number of bytes; the bytes that were dropped."""
        if self._transport.is_closing():  # its file may be another's by now
            return 0
        # Neither event loop's own object can receive, and no other may close the file.
        number = self._transport.get_extra_info("socket").fileno()
        borrowed = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, number)
        try:
            return borrowed.recv_into(_dropped, min(most, len(_dropped)), _DROP)
        except OSError:  # nothing has, or the event loop is about to see that the client is gone
            return 0
        finally:
            borrowed.detach()
