"""How uvicorn is configured, and a port that another program takes meanwhile."""

import asyncio
import importlib.util
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from app.process.connections import BoundedProtocol
from app.process.file_limit import ACCEPTED_AT_A_TIME
from app.process.listening import bind_listeners
from app.process.server import _Server, configure
from app.settings import Settings

FORWARDED = [(b"x-forwarded-for", b"203.0.113.9, 10.9.9.9"), (b"x-forwarded-proto", b"https")]


async def _receive() -> dict[str, str]:
    return {"type": "http.disconnect"}


async def _send(message: object) -> None:
    return None


class _App:
    """Notes the client's address and the scheme."""

    state = SimpleNamespace(metrics=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.client, self.scheme = scope["client"][0], scope["scheme"]


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.0.0.1"])
async def test_forwarded_headers_are_ignored(peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # uvicorn's own variable is not a setting of ours.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    app = _App()
    config = configure(Settings(), app)  # type: ignore[arg-type]
    config.load()
    scope = {"type": "http", "headers": FORWARDED, "client": (peer, 1), "scheme": "http"}

    await config.loaded_app(scope, _receive, _send)

    assert (app.client, app.scheme) == (peer, "http")


def test_without_httptools_the_log_says_which_limits_are_gone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app: Any = _App()
    limited = configure(Settings(max_connections=7), app).http
    assert isinstance(limited, type)
    assert issubclass(limited, BoundedProtocol)
    assert limited.settings.max_connections == 7
    assert caplog.records == []

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name != "httptools" and find_spec(name)
    )
    assert configure(Settings(), app).http == "auto"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    for limit in ("number of connections", "how slowly clients send and read"):
        assert limit in record.getMessage()


async def test_a_port_that_is_taken_while_the_server_loads_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.process.server._exit", sys.exit)
    app: Any = _App()
    (listener,) = bind_listeners(Settings(port=0))
    with listener, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(listener.getsockname())
        other.listen()
        with pytest.raises(SystemExit, match="2"):
            await _Server(configure(Settings(), app), app).startup([listener])

    (line,) = capsys.readouterr().err.splitlines()
    assert "the port is in use" in line


def test_several_connections_are_accepted_in_a_turn_of_the_event_loop() -> None:
    class _Silent(_Server):
        def begin_to_serve(self) -> None:
            return None

    async def turns_until_accepted(count: int) -> int:
        app: Any = _App()
        (listener,) = bind_listeners(Settings(port=0))
        config = configure(Settings(), app)
        config.lifespan = "off"
        config.load()
        server, turns = _Silent(config, app), 0
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        clients = [socket.create_connection(listener.getsockname()) for _ in range(count)]
        while len(server.server_state.connections) < count:
            await asyncio.sleep(0)
            turns += 1
        for client in clients:
            client.close()
        await server.shutdown([listener])
        return turns

    assert uvloop.run(turns_until_accepted(5 * ACCEPTED_AT_A_TIME)) < 4 * 5
