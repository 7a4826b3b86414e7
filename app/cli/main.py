"""The command line: `dropserve`, also `python -m app`."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from app.cli.bench import add_bench_command
from app.cli.new_key import add_new_key_command
from app.cli.predict.command import add_predict_command
from app.cli.score import add_score_command
from app.cli.serve import add_serve_command
from app.errors import EXIT_INTERRUPTED, EXIT_USAGE, UsageError
from app.settings import SettingsError
from model.errors import ModelError

_COMMANDS = (
    add_serve_command,
    add_new_key_command,
    add_predict_command,
    add_score_command,
    add_bench_command,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code."""
    parser = argparse.ArgumentParser(
        prog="dropserve", description="Serve digit predictions with MC-dropout uncertainty."
    )
    parser.add_argument("--version", action="version", version=version("dropserve"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add_command in _COMMANDS:
        add_command(commands)
    options = parser.parse_args(arguments)
    try:
        sys.exit(options.command(options))
    except (UsageError, SettingsError, ModelError) as error:
        sys.stderr.write(f"dropserve: {error}\n")
        sys.exit(EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
