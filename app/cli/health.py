"""`dropserve health`: whether a server is ready, for the health check of a container."""

import argparse
import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from app.cli.options import Commands, add_setting_options
from app.errors import EXIT_FAILED, EXIT_OK
from app.settings import load_settings

_FIRST_PROCESS = Path("/proc/1/cmdline")  # what a container was started with


def add_health_command(commands: Commands) -> None:
    text = "ask a server on this machine whether it is ready: where the options say, or else where "
    text += "process 1 of this container serves, or the environment says"
    parser = commands.add_parser("health", help="ask whether the server is ready", description=text)
    parser.set_defaults(command=_health)
    add_setting_options(parser, ("host", "port"))


def _health(options: argparse.Namespace) -> int:
    from app.process.listening import address_of

    started = _options_of(_FIRST_PROCESS)
    given = {name: getattr(options, name) or started.get(name) for name in ("host", "port")}
    settings = load_settings(os.environ, given)
    address = address_of(settings.host, settings.port).removeprefix("http://")
    connection = HTTPConnection(address, timeout=2.0)  # the image waits for 3 seconds
    try:
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        sys.stderr.write(f"the server does not answer: {error}\n")
        return EXIT_FAILED
    finally:
        connection.close()
    sys.stderr.write(f"/health/ready answers {status}\n")
    return EXIT_OK if status == 200 else EXIT_FAILED


def _options_of(command_line: Path) -> dict[str, Any]:
    """The settings among a process's words after `dropserve serve`; none of another process."""
    parser = argparse.ArgumentParser(add_help=False)
    add_setting_options(parser)
    words = command_line.read_text(errors="replace").split("\0") if command_line.exists() else []
    for number, word in enumerate(words[1:], 1):
        if word == "serve" and Path(words[number - 1]).name in ("dropserve", "app"):
            return vars(parser.parse_known_args(words[number + 1 :])[0])
    return {}
