"""Which proxy the clients use, and what they say of a variable that httpx cannot read."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from app.client import (
    AsyncDropserveClient,
    ConnectionFailedError,
    DropserveClient,
    RetryPolicy,
    TimedOutError,
)
from tests.app.client.conftest import PICTURE
from tests.conftest import RunningServer

BOTH = pytest.mark.parametrize("kind", [DropserveClient, AsyncDropserveClient])
Kind = type[DropserveClient] | type[AsyncDropserveClient]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A proxy for everything, which accepts connections and is silent."""
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        monkeypatch.setenv("ALL_PROXY", f"127.0.0.1:{listening.getsockname()[1]}")
        yield listening


async def predict(kind: Kind, address: str) -> None:
    """Fails fast: nothing answers."""
    client = kind(address, retries=RetryPolicy(0), timeout=0.2)
    if isinstance(client, AsyncDropserveClient):
        async with client:
            await client.predict(PICTURE)
    else:
        with client:
            client.predict(PICTURE)


@BOTH
async def test_another_machine_is_reached_through_the_proxy_and_errors_say_so(
    kind: Kind, proxy: socket.socket
) -> None:
    with pytest.raises(TimedOutError, match=r"dropserve\.test:8000 through the proxy of ALL_PROXY"):
        await predict(kind, "http://dropserve.test:8000")

    proxy.accept()[0].close()


@BOTH
@pytest.mark.parametrize("host", ["localhost", "LocalHost", "127.0.0.1", "127.8.9.1", "[::1]"])
async def test_this_machine_is_reached_without_a_proxy(
    kind: Kind, host: str, proxy: socket.socket
) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://{host}:{taken.getsockname()[1]}"

        with pytest.raises(ConnectionFailedError) as caught:
            await predict(kind, address)

    assert "proxy" not in str(caught.value)
    with pytest.raises(BlockingIOError):
        proxy.accept()


@pytest.mark.slow
async def test_a_server_on_this_machine_answers_whatever_the_proxy_variables_are(
    server: RunningServer, proxy: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:port")
    monkeypatch.setenv("NO_PROXY", "[::1]")
    addresses = (server.address, server.address.replace("127.0.0.1", "localhost"))

    for address in addresses:
        with DropserveClient(address) as client:
            assert client.predict(PICTURE).digit == 7
        async with AsyncDropserveClient(address) as asking:
            assert (await asking.predict(PICTURE)).digit == 7


@BOTH
@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HTTP_PROXY", "http://proxy:port", "is not the address of a proxy"),
        ("http_proxy", "http://user:pass/word@proxy:80", "is not the address of a proxy"),
        ("HTTPS_PROXY", " http://proxy:80", "is not the address of a proxy"),
        ("ALL_PROXY", "socks://proxy:80", "is not the address of a proxy"),
        ("all_proxy", "socks5://proxy:80", "pip install 'httpx[socks]'"),
        ("NO_PROXY", "[::1]", "is not a list of hosts"),
        ("no_proxy", "http://host:port", "is not a list of hosts"),
    ],
)
def test_a_variable_that_cannot_be_read_is_named_and_its_value_is_not_repeated(
    kind: Kind, variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, variable, value)
    if value.startswith("socks5"):
        monkeypatch.setitem(sys.modules, "socksio", None)

    with pytest.raises(ValueError, match=variable) as caught:
        kind("http://dropserve.test")

    message = str(caught.value)
    assert words in message
    assert "pass" not in message
    assert "\n" not in message


@pytest.mark.usefixtures("proxy")
def test_other_errors_are_not_blamed_on_the_variables() -> None:
    with pytest.raises(UnicodeEncodeError):
        DropserveClient("http://dropserve.test", headers={"x": "\udc80"})
