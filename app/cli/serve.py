"""`dropserve serve`: the server."""

import argparse
import os

from app.cli.options import Commands, add_setting_options
from app.settings import Settings, load_settings


def add_serve_command(commands: Commands) -> None:
    """Adds `serve`, with an option for each setting."""
    parser = commands.add_parser("serve", help="start the server", description="Start the server.")
    parser.set_defaults(command=_serve)
    add_setting_options(parser)


def _serve(options: argparse.Namespace) -> int:
    from app.process.listening import bind_listeners
    from app.process.signals import hold_reloads
    from app.telemetry.spans import check_spans

    given = {name: getattr(options, name) for name in Settings.model_fields}
    settings = load_settings(os.environ, given)
    hold_reloads(True)
    listeners = bind_listeners(settings)
    for keys_file in filter(None, (settings.api_keys_file, settings.admin_keys_file)):
        from app.api.auth import ApiKeys

        ApiKeys(keys_file)
    check_spans(settings)
    # Only now, so that help, wrong settings and a port in use are answered at once.
    from app.inference.catalogue import find_models
    from app.inference.repository import load_models
    from app.process.server import run_server

    return run_server(settings, load_models(settings, find_models(settings).files), listeners)
