"""Where the server listens, and what it says where it cannot."""

import os
import socket
from contextlib import ExitStack

import pytest

from app.process.listening import address_of, bind_listeners, copies_of
from app.settings import Settings, SettingsError
from tests.app.process.addresses import has_ipv6

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("host", "reached", "unreached"),
    [
        ("127.0.0.1", ["127.0.0.1"], []),
        ("0.0.0.0", ["127.0.0.1"], []),
        pytest.param("::", ["127.0.0.1", "::1"], [], marks=needs_ipv6),
        pytest.param("::1", ["::1"], ["127.0.0.1"], marks=needs_ipv6),
        pytest.param("[::1]", ["::1"], ["127.0.0.1"], marks=needs_ipv6),
        ("localhost", ["localhost", "127.0.0.1"], []),
    ],
)
def test_an_address_is_reached_once_it_listens(
    host: str, reached: list[str], unreached: list[str]
) -> None:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(one) for one in bind_listeners(Settings(host=host, port=0))
        ]
        (port,) = {one.getsockname()[1] for one in listeners}
        for peer in (*reached, *unreached):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((peer, port), timeout=5)

        for one in listeners:
            one.listen()
        for peer in reached:
            socket.create_connection((peer, port), timeout=5).close()
        for peer in unreached:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((peer, port), timeout=5)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_in_use_is_named_with_what_to_do(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"port {port}: the port is in use; .*--port"):
            bind_listeners(Settings(host=host, port=port))


def test_a_port_whose_last_connections_have_just_ended_can_be_bound() -> None:
    settings = Settings(port=0)
    (listener,) = bind_listeners(settings)
    with listener:
        listener.listen()
        address = listener.getsockname()
        with socket.create_connection(address) as client:
            listener.accept()[0].close()  # this side first: its kernel remembers the connection
            assert client.recv(1) == b""

    (again,) = bind_listeners(Settings(port=address[1]))
    again.close()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("192.0.2.1", "does not have the address"), ("no such host", "no such host")],
)
def test_an_address_of_another_machine_is_refused(host: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=rf"cannot listen on {host}.*{reason}.*--host"):
        bind_listeners(Settings(host=host, port=0))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("2001:db8::1", "http://[2001:db8::1]:80"),
    ],
)
def test_the_printed_address_is_one_that_this_machine_reaches(host: str, address: str) -> None:
    assert address_of(host, 80) == address


def test_copies_of_listeners_leave_them_as_they_are_in_other_workers() -> None:
    with ExitStack() as stack:
        (listener,) = map(stack.enter_context, bind_listeners(Settings(port=0)))
        os.set_blocking(listener.fileno(), False)  # as another worker has done
        copies = [stack.enter_context(copy) for copy in copies_of([listener])]

        assert {copy.getsockname() for copy in copies} == {listener.getsockname()}
        assert not os.get_blocking(listener.fileno())
