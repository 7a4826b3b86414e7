"""How uvicorn is configured, and what address the server prints."""

from types import SimpleNamespace

import pytest
from starlette.types import Receive, Scope, Send

from app.process.server import _address, configure
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


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("2001:db8::1", "http://[2001:db8::1]:80"),
    ],
)
def test_the_printed_address_is_one_that_this_machine_reaches(host: str, address: str) -> None:
    assert _address(host, 80) == address
