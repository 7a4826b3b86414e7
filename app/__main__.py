"""The program: `dropserve`, also `python -m app`."""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

_EXIT_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code."""
    # Before the imports, which take a while: the kernel drops a signal to process 1 of a container
    # that has no handler for it, and `docker stop` would wait for ten seconds.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(_EXIT_TERMINATED))
    try:
        _run(arguments)
    except KeyboardInterrupt:
        from app.errors import EXIT_INTERRUPTED

        sys.exit(EXIT_INTERRUPTED)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    import argparse
    from importlib.metadata import version

    from app.cli.bench import add_bench_command
    from app.cli.health import add_health_command
    from app.cli.new_key import add_new_key_command
    from app.cli.predict.command import add_predict_command
    from app.cli.review import add_review_command
    from app.cli.score import add_score_command
    from app.cli.serve import add_serve_command
    from app.errors import EXIT_USAGE, UsageError
    from app.settings import SettingsError
    from model.errors import ModelError

    parser = argparse.ArgumentParser(
        prog="dropserve", description="Serve digit predictions with MC-dropout uncertainty."
    )
    parser.add_argument("--version", action="version", version=version("dropserve"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_serve_command(commands)
    add_health_command(commands)
    add_new_key_command(commands)
    add_predict_command(commands)
    add_score_command(commands)
    add_review_command(commands)
    add_bench_command(commands)
    options = parser.parse_args(arguments)
    try:
        sys.exit(options.command(options))
    except (UsageError, SettingsError, ModelError) as error:
        sys.stderr.write(f"dropserve: {error}\n")
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
