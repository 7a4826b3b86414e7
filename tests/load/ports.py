"""Ports of the loopback address that nobody listens on."""

import socket


def free_port() -> int:
    """A free one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def free_ports(count: int) -> int:
    """The first of so many in a row."""
    while True:
        first = free_port()
        sockets = [socket.socket() for _ in range(count)]
        try:
            for number, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + number))
            return first
        except (OSError, OverflowError):
            continue
        finally:
            for each in sockets:
                each.close()
