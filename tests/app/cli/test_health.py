"""`dropserve health`: what it asks, and how it ends."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import app.cli.health
from tests.app.cli.conftest import run


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The port of a server that answers every question for its health with a status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield str(server.server_port)
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def first_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the command line of process 1, which is of another program."""
    path = tmp_path / "cmdline"
    path.write_bytes(b"/sbin/init\0serve\0--port\x001\0")
    monkeypatch.setattr(app.cli.health, "_FIRST_PROCESS", path)
    return path


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_ends_as_the_server_is(
    status: int, code: int, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(status) as port:
        monkeypatch.setenv("DROPSERVE_PORT", port)
        monkeypatch.setenv("DROPSERVE_HOST", host)
        assert run("health") == code


@pytest.mark.parametrize(
    "words",
    [
        "/opt/bin/python /opt/bin/dropserve serve --port {port} --workers 2",
        "/sbin/docker-init -- dropserve serve --port={port} --unknown",
        "python -m app serve --port {port}",
    ],
)
def test_it_asks_where_the_containers_server_listens(
    words: str, first_process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DROPSERVE_PORT", "1")
    with answering(200) as port:
        first_process.write_text(words.format(port=port).replace(" ", "\0") + "\0")
        assert run("health") == 0
        assert run("health", "--port", "1") == 1


def test_no_server_is_not_ready(capsys: pytest.CaptureFixture[str], first_process: Path) -> None:
    first_process.unlink()  # as on a system without /proc
    with answering(200) as port:
        pass
    assert run("health", "--port", port) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not answer" in line
