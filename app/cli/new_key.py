"""`dropserve new-key`: an API key, and the line that admits it."""

import argparse
import sys
from typing import TYPE_CHECKING

from app.errors import EXIT_OK

if TYPE_CHECKING:
    from app.cli.options import Commands


def add_new_key_command(commands: "Commands") -> None:
    """Adds `new-key`."""
    parser = commands.add_parser(
        "new-key",
        help="make an API key",
        description="Make an API key. Standard error shows the key, only this once; standard "
        "output has its line for the file of DROPSERVE_API_KEYS_FILE.",
    )
    parser.set_defaults(command=_new_key)
    parser.add_argument("name", nargs="?", default="", help="a comment in the line: whose key")


def _new_key(options: argparse.Namespace) -> int:
    from app.api.auth import key_line, make_key

    key = make_key()
    sys.stderr.write(f"The key, shown only now: {key}\n")
    sys.stdout.write(f"{key_line(key, ' '.join(options.name.split()))}\n")
    return EXIT_OK
