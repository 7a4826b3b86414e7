"""The proxies that the environment names: httpx reads them, and this says what is wrong."""

import os
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import httpx


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, where a proxy would reach another server or none."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def proxy_variable(url: httpx.URL) -> str | None:
    """The variable that names the proxy for an address; None if it is reached without."""
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    proxies = getproxies()
    return next((_variable(each) for each in (url.scheme, "all") if proxies.get(each)), None)


def proxy_fault() -> str | None:
    """What is wrong with the variable that httpx cannot read; None if it can read them all.

    The value is not repeated: it may hold a password.
    """
    proxies = getproxies()
    for scheme in ("http", "https", "all"):
        address = proxies.get(scheme, "")
        try:
            proxy = address if "://" in address else f"http://{address}"
            httpx.HTTPTransport(proxy=proxy)
        except ImportError:
            return f"{_variable(scheme)} names a SOCKS proxy; for it, pip install 'httpx[socks]'"
        except (ValueError, httpx.InvalidURL):
            wanted = "the address of a proxy, such as http://proxy:3128"
            return f"{_variable(scheme)} is not {wanted}; correct it or unset it"
    try:
        httpx.Client()
    except (ValueError, httpx.InvalidURL):
        wanted = "a list of hosts, such as localhost,example.com,::1"
        return f"{_variable('no')} is not {wanted}; correct it or unset it"
    return None


def _variable(scheme: str) -> str:
    name = f"{scheme}_proxy"
    # The lower case has precedence; systems other than Linux also have settings without variables.
    return max(
        (each for each in os.environ if each.lower() == name),
        default=f"the system's setting {name}",
    )
