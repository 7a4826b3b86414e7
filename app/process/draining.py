"""A uvicorn server that tells before it goes: it is not ready, serves on, and then ends.

uvicorn closes its listener the moment it is asked to end, while a load balancer still sends
requests for some seconds. Here SIGTERM first makes `/health/ready` answer 503 and every answer
carry `Connection: close`; the listener closes when the time to drain is over.
"""

import asyncio
import ctypes
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

# Together less than two seconds, the longest that the end may take after the drain: accepting what
# the kernel has connected, waiting for requests on their way, and uvicorn's own patience, which
# counts whole seconds.
_ACCEPTING_SECONDS = 0.2
_FINISHING_SECONDS = 0.5
UVICORN_SECONDS = 1
_LOOKING_SECONDS = 0.02

_SO_ATTACH_FILTER = 26  # Linux; the socket module does not have it


class DrainingServer(uvicorn.Server):
    """Serves an application; SIGTERM drains, SIGINT ends it, and a second signal ends it now.

    Args:
        config: uvicorn's.
        app: the application; its state is told when the drain begins.
        drain_seconds: how long it serves on after SIGTERM.
        owns_listener: whether no other process accepts connections from the same listener.
    """

    def __init__(
        self, config: uvicorn.Config, app: FastAPI, drain_seconds: float, *, owns_listener: bool
    ) -> None:
        super().__init__(config)
        self._app = app
        self._drain_seconds = drain_seconds
        self._owns_listener = owns_listener
        self._drained_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for each signal, in whatever the loop is doing."""
        self._captured_signals.append(sig)
        if self.should_exit or self._drained_at is not None:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGTERM and self.started and self._drain_seconds > 0:
            self._drained_at = time.monotonic() + self._drain_seconds
            self._app.state.is_draining = True
            close = [(b"connection", b"close")]
            self.config.encoded_headers = self.config.encoded_headers + close
            self.server_state.default_headers = self.server_state.default_headers + close
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._drained_at is not None and time.monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends, but not before whoever is connected has an answer."""
        if not self.force_exit:
            await self._answer_the_last()
        await super().shutdown(sockets)

    async def _answer_the_last(self) -> None:
        if self._owns_listener:
            for server in self.servers:
                for listener in server.sockets:
                    refuse_new_connections(listener.fileno())
        # What the kernel has connected and nobody has accepted yet would be cut off.
        await asyncio.sleep(_ACCEPTING_SECONDS)
        for server in self.servers:
            server.close()
        for _ in range(round(_FINISHING_SECONDS / _LOOKING_SECONDS)):
            if self.force_exit or not self._is_anyone_waiting():
                break
            await asyncio.sleep(_LOOKING_SECONDS)

    def _is_anyone_waiting(self) -> bool:
        """Whether a connection has no complete answer, be its request still on the way."""
        for connection in self.server_state.connections:
            cycle = getattr(connection, "cycle", None)  # the request in hand, or the last one
            if cycle is None or not cycle.response_complete:
                return True
        return False


def refuse_new_connections(listener: int) -> None:
    """Lets the kernel connect nobody more to a listener that is about to close.

    Between the last `accept` and the close, the kernel would go on connecting clients, only to
    reset them. A filter that takes no packet leaves them to find that nobody listens; what is
    connected already is not touched. Only Linux has it; elsewhere the moment stays.

    Args:
        listener: its file descriptor.
    """
    if sys.platform != "linux":
        return
    # struct sock_filter: BPF_RET | BPF_K with 0, the bytes to let through.
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    with (
        suppress(OSError),
        socket.fromfd(listener, socket.AF_INET, socket.SOCK_STREAM) as duplicate,
    ):
        duplicate.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
