"""Where the server listens: its addresses are bound before anything large is loaded."""

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from types import MappingProxyType

from app.process.file_limit import ACCEPTED_AT_A_TIME
from app.settings import Settings, SettingsError

_CURES = MappingProxyType(
    {
        errno.EADDRINUSE: "the port is in use; end the program that uses it, or choose another "
        "port with --port (0 takes a free one)",
        errno.EACCES: "this user may not use the port; choose one above 1023 with --port",
        errno.EADDRNOTAVAIL: "this machine does not have the address; choose one with --host",
    }
)
# A name such as localhost may also stand for an address of a family that is turned off.
_TURNED_OFF = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# An address of every interface, and where this machine reaches it.
_LOOPBACK = MappingProxyType({"0.0.0.0": "127.0.0.1", "::": "::1"})  # nosec B104: not bound here


def bind_listeners(settings: Settings) -> list[socket.socket]:
    """Binds the addresses that the settings name; nobody can connect before the server listens.

    `::` takes IPv4, too.

    Raises:
        SettingsError: there is no such address, or another program uses the port.
    """
    host, port, kind = _bare(settings.host), settings.port, socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(host, port, type=kind, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        text = f"cannot listen on {host}: there is no such host; choose an address with --host"
        raise SettingsError(text) from None
    listeners: list[socket.socket] = []
    with ExitStack() as stack:
        for family, _, protocol, _, (ip, _, *rest) in found:
            try:
                listener = stack.enter_context(socket.socket(family, kind, protocol))
                if os.name == "posix":  # elsewhere two programs could share the port
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(ip != "::"))
                listener.bind((ip, port, *rest))
            except OSError as error:
                if error.errno not in _TURNED_OFF or (not listeners and ip == found[-1][4][0]):
                    raise cannot_listen(host, port, error) from None
                continue
            port = listener.getsockname()[1]  # the same of every address, where any will do
            listeners.append(listener)
        stack.pop_all()
    return listeners


def copies_of(listeners: Sequence[socket.socket]) -> list[socket.socket]:
    """More listeners of the same addresses, since uvloop accepts one connection of each in a turn.

    Under load a turn is long: with one listener new clients, and health checks, would wait for
    seconds.
    """
    if sys.platform == "win32":  # there is no uvloop
        return []
    # Not by `socket.dup`, which sets blocking mode for a moment, in other workers, too.
    return [
        socket.socket(fileno=os.dup(listener.fileno()))
        for listener in listeners
        for _ in range(ACCEPTED_AT_A_TIME - 1)
    ]


# For setsockopt(2) of Linux; Python has no name for it.
_SO_ATTACH_FILTER = 26
# A packet filter in the instructions of `linux/filter.h`, each an operation, two jumps and an
# operand. It drops the packets that begin a handshake, SYN without ACK, and keeps all others.
_NO_BEGINNINGS = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # A = the flags of the TCP header
        (0x54, 0, 0, 0x12),  # A &= SYN | ACK
        (0x15, 0, 1, 0x02),  # if A is SYN, go on; otherwise skip one
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # keep all of it
    )
)


def stop_connecting(listener: socket.socket) -> None:
    """Has Linux connect nobody to a listener whose handshake has not begun.

    Otherwise the kernel goes on between the last `accept` and the close, and the close resets
    whoever it connected. Clients that begin now try again after a second, and are refused then.
    It holds for every process that has the listener, and elsewhere does nothing.
    """
    if sys.platform == "linux":
        program = ctypes.create_string_buffer(_NO_BEGINNINGS, len(_NO_BEGINNINGS))
        length = len(_NO_BEGINNINGS) // 8
        option = struct.pack("@HP", length, ctypes.addressof(program))
        with suppress(OSError):  # a sandbox may refuse it
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)


def cannot_listen(host: str, port: int, error: OSError) -> SettingsError:
    """What to do about an address that cannot be bound or listened on."""
    reason = _CURES.get(error.errno or 0, error.strerror or str(error))
    return SettingsError(f"cannot listen on {host}, port {port}: {reason}")


def address_of(host: str, port: int) -> str:
    """The address of a server for this machine; at the loopback if it is on every interface."""
    host = _LOOPBACK.get(_bare(host), _bare(host))
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bare(host: str) -> str:
    """The address without the brackets that an IPv6 address has in a URL."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host
