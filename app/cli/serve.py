"""`dropserve serve`: the server."""

import argparse
import os

from app.cli.options import Commands
from app.settings import PREFIX, Settings, load_settings


def add_serve_command(commands: Commands) -> None:
    """Adds `serve`, with an option for each setting."""
    parser = commands.add_parser("serve", help="start the server", description="Start the server.")
    parser.set_defaults(command=_serve)
    for name, field in Settings.model_fields.items():
        default = f"; default {field.default}" if field.default not in (None, ()) else ""
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="VALUE",
            help=f"{field.description}{default} [{PREFIX}{name.upper()}]",
        )


def _serve(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in Settings.model_fields}
    settings = load_settings(os.environ, given)
    if settings.api_keys_file is not None:
        from app.api.auth import ApiKeys

        ApiKeys(settings.api_keys_file)
    # The engine is imported only now, so that help and wrong settings answer at once.
    from app.inference.served_checkpoint import load_served_checkpoint
    from app.process.server import run_server
    from model.engines import build_engine

    checkpoint = load_served_checkpoint(settings)
    build_engine(checkpoint.network, settings.device, settings.precision)
    return run_server(settings, checkpoint)
