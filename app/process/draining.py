"""A uvicorn server that drains: it reports that it is not ready, serves on, and then ends.

uvicorn closes its listener as soon as it gets a signal, while a load balancer still sends requests
for some seconds. Here SIGTERM begins the drain: `/health/ready` answers 503 and every answer
carries `Connection: close`. The listener closes when the drain is over, and whoever is connected
then is answered. A server that nobody has found yet, neither client nor health check, ends at once.

Besides the methods that it overrides, it uses these insides of uvicorn, whose version is pinned for
that: `Config.encoded_headers` and `ServerState.default_headers`, which every answer carries,
`ServerState.total_requests`, the `cycle` of a connection, which is its latest request, its `scope`,
which has no method until the headers are complete, and `lifespan.state`.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.server import HANDLED_SIGNALS

from app.process.listening import stop_connecting

# Together less than two seconds, the longest that the end may take after the drain: the wait for
# handshakes and for requests on their way, and uvicorn's own timeout, which counts whole seconds.
_HANDSHAKE_SECONDS = 0.1
_FINISH_SECONDS = 0.5
UVICORN_SECONDS = 1
_POLL_SECONDS = 0.02


class DrainingServer(uvicorn.Server):
    """Serves an application; SIGTERM drains, SIGINT ends it, and a second signal ends it now."""

    handled_signals: tuple[int, ...] = HANDLED_SIGNALS
    last_signal: int | None = None

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.app = app
        self._drained_at: float | None = None

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handles signals; uvicorn's would raise them again in the end."""
        for sig in self.handled_signals:
            signal.signal(sig, self.handle_exit)
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal, whatever the event loop is doing."""
        self.last_signal = sig
        drain_seconds: float = self.app.state.settings.drain_seconds
        if self.should_exit or self._drained_at is not None:
            self.should_exit = self.force_exit = True
        elif sig == signal.SIGTERM and self._is_known() and drain_seconds > 0:
            self._drained_at = time.monotonic() + drain_seconds
            self.app.state.is_draining = True
            close = [(b"connection", b"close")]
            self.config.encoded_headers = self.config.encoded_headers + close
            self.server_state.default_headers = self.server_state.default_headers + close
        else:
            self.should_exit = True

    def _is_known(self) -> bool:
        """Whether anybody has ever connected, so that a load balancer may send more."""
        state = self.server_state
        return bool(state.total_requests or state.connections)

    async def on_tick(self, counter: int) -> bool:
        if self._drained_at is not None and time.monotonic() >= self._drained_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server, after everyone who is connected has an answer."""
        if not self.force_exit:
            await self._close_listeners()
            for _ in range(round(_FINISH_SECONDS / _POLL_SECONDS)):
                if self.force_exit or not self._is_anyone_waiting():
                    break
                await asyncio.sleep(_POLL_SECONDS)
        await super().shutdown(sockets)

    async def _close_listeners(self) -> None:
        """Accepts whoever the kernel has connected, which a close would reset, and closes.

        The event loop closes its copy of a listener first: where the kernel goes on connecting,
        nothing may run between the last `accept` of the other copy and its close.
        """
        listeners = [listener.dup() for server in self.servers for listener in server.sockets]
        for listener in listeners:
            stop_connecting(listener)
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)
        accepted = []
        for listener in listeners:
            with listener, suppress(OSError):  # BlockingIOError: nobody is left
                while True:
                    accepted.append(listener.accept()[0])
        # A connection's protocol, as `uvicorn.Server.startup` makes it.
        state = (self.config, self.server_state, self.lifespan.state)
        create = partial(self.config.http_protocol_class, *state)  # type: ignore[call-arg]
        for connection in accepted:
            connection.setblocking(False)
            with suppress(OSError):  # it is gone already
                await asyncio.get_running_loop().connect_accepted_socket(create, connection)

    def _is_anyone_waiting(self) -> bool:
        """Whether a connection has no complete answer, even if its request is still on the way."""
        return any(map(_is_waiting, self.server_state.connections))


def _is_waiting(connection: Any) -> bool:
    cycle, scope = getattr(connection, "cycle", None), getattr(connection, "scope", None)
    # The headers of another request have begun, and have no end yet.
    is_partial_head = scope is not None and "method" not in scope
    return cycle is None or not cycle.response_complete or is_partial_head
