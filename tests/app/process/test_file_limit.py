"""The limit of open files against that of connections."""

import logging
import resource
import socket
import sys

import httpx
import pytest

from app.process.file_limit import fit_to_file_limit, pending_connections, spare_connections
from app.settings import Settings
from tests.app.telemetry.prometheus_text import Scrape
from tests.conftest import ServerStarter


class _Limit:
    """The limit of open files of a process that is not this one."""

    def __init__(self, now: int, most: int) -> None:
        self.values = (now, most)

    def get(self, kind: int) -> tuple[int, int]:
        assert kind == resource.RLIMIT_NOFILE
        return self.values

    def set(self, kind: int, values: tuple[int, int]) -> None:
        assert values[0] <= values[1] or values[1] == resource.RLIM_INFINITY
        self.values = values


@pytest.mark.parametrize(
    ("now", "most", "then", "connections", "warns"),
    [
        (1024, 524_288, 6992, 800, False),
        (256, resource.RLIM_INFINITY, 6992, 800, False),
        (1_048_576, 1_048_576, 1_048_576, 800, False),
        (256, 1024, 1024, 800, False),
        (256, 256, 256, 104, True),
        (64, 64, 64, 8, True),
        (16, 16, 16, 1, True),
    ],
)
def test_the_limit_is_raised_or_connections_are_fewer(
    now: int,
    most: int,
    then: int,
    connections: int,
    warns: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limit = _Limit(now, most)
    monkeypatch.setattr(resource, "getrlimit", limit.get)
    monkeypatch.setattr(resource, "setrlimit", limit.set)

    settings = fit_to_file_limit(Settings())

    assert limit.values == (then, most)
    assert settings.max_connections == connections
    assert bool(caplog.records) == warns
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    beyond = spare_connections(settings) + pending_connections(settings)
    assert connections + beyond < max(then, 16)


@pytest.mark.slow
@pytest.mark.parametrize("files", [64, 256])
def test_a_server_with_few_files_serves_warns_and_counts(
    files: int, servers: ServerStarter
) -> None:
    limited = ("sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", sys.executable, "-m", "app")
    server = servers.start(program=limited)
    host, port = server.address.removeprefix("http://").split(":")
    half = b"POST /predict HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf"
    held = []
    for _ in range(3 * files):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(half)
        held.append(connection)
        if len(held) % 16 == 0:
            assert httpx.get(f"{server.address}/health/live").status_code == 200
    text = httpx.get(f"{server.address}/metrics").text

    assert Scrape(text).by("code", "connections_refused_total")["overloaded"] > files
    for connection in held:
        connection.close()
