"""How uvicorn is told to serve: which proxies are believed."""

import pytest
from starlette.types import Receive, Scope, Send

from app.process.server import configure
from app.settings import Settings

FORWARDED = [(b"x-forwarded-for", b"203.0.113.9, 10.9.9.9"), (b"x-forwarded-proto", b"https")]


async def _nothing() -> dict[str, str]:
    return {"type": "http.disconnect"}


async def _ignore(message: object) -> None:
    return None


class _App:
    """Keeps who asked, as it was told."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.client, self.scheme = scope["client"][0], scope["scheme"]


@pytest.mark.parametrize(
    ("trusted", "peer", "client", "scheme"),
    [
        ((), "10.0.0.1", "10.0.0.1", "http"),
        ((), "127.0.0.1", "127.0.0.1", "http"),
        (("10.0.0.0/8",), "10.0.0.1", "203.0.113.9", "https"),
        (("10.0.0.0/8",), "192.0.2.1", "192.0.2.1", "http"),
        (("10.0.0.1",), "10.0.0.1", "10.9.9.9", "https"),
    ],
)
async def test_a_forwarded_address_is_believed_of_trusted_proxies_only(
    trusted: tuple[str, ...],
    peer: str,
    client: str,
    scheme: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # uvicorn's own variable is not a setting of ours.
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    app = _App()
    config = configure(app, Settings(trusted_proxies=trusted))  # type: ignore[arg-type]
    config.load()
    scope = {"type": "http", "headers": FORWARDED, "client": (peer, 1), "scheme": "http"}

    await config.loaded_app(scope, _nothing, _ignore)

    assert (app.client, app.scheme) == (client, scheme)
