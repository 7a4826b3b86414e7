"""The command line: `dropserve`, also `python -m app`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from app.cli.predict_command import add_predict_command
from app.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from app.scoring.command import add_score_command
from app.settings import PREFIX, Settings, SettingsError, load_settings


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits with its code."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(options.command(options))
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dropserve", description="Serve digit predictions with MC-dropout uncertainty."
    )
    parser.add_argument("--version", action="version", version=version("dropserve"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="start the server", description="Start the server.")
    serve.set_defaults(command=_serve)
    for name, field in Settings.model_fields.items():
        default = f"; default {field.default}" if field.default not in (None, ()) else ""
        serve.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="VALUE",
            help=f"{field.description}{default} [{PREFIX}{name.upper()}]",
        )

    new_key = commands.add_parser(
        "new-key",
        help="make an API key",
        description="Make an API key: show it, on standard error and only this time, and print the "
        "line that lets it in, for the file of DROPSERVE_API_KEYS_FILE.",
    )
    new_key.set_defaults(command=_new_key)
    new_key.add_argument(
        "name", nargs="?", default="", help="whose key it is; stands in the line, for people"
    )

    add_predict_command(commands)
    add_score_command(commands)

    bench = commands.add_parser("bench", help="measure", description="Measure, on this machine.")
    benches = bench.add_subparsers(required=True, metavar="WHAT")
    engine = benches.add_parser(
        "engine",
        help="the engine against the textbook loop",
        description="Time MC dropout in the engine against the textbook loop of eager passes and "
        "against whole-network batch expansion, in one process on one thread; print medians and "
        "ratios.",
    )
    engine.set_defaults(command=_bench_engine)
    engine.add_argument(
        "--checkpoint", type=Path, help="checkpoint to measure; without it the committed one"
    )
    engine.add_argument(
        "--images", type=int, nargs="+", default=[1, 8, 32], help="batch sizes (default: 1 8 32)"
    )
    engine.add_argument(
        "--passes",
        type=int,
        nargs="+",
        default=[10, 50, 100, 1000],
        help="passes (default: 10 50 100 1000)",
    )
    engine.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="repetitions, each timing every variant (default: 15)",
    )
    engine.add_argument("--json", action="store_true", help="print JSON")

    return parser


def _serve(options: argparse.Namespace) -> int:
    try:
        settings = load_settings(
            os.environ, {name: getattr(options, name) for name in Settings.model_fields}
        )
    except SettingsError as error:
        return _usage_error(error)
    if settings.api_keys_file is not None:
        from app.api.auth import ApiKeys

        try:
            ApiKeys(settings.api_keys_file)
        except SettingsError as error:
            return _usage_error(error)
    # Torch is imported only now, so that help and wrong settings answer at once.
    from app.inference.repository import load_served_checkpoint
    from app.process.server import run_server
    from model.engines import build_engine
    from model.errors import ModelError

    try:
        checkpoint = load_served_checkpoint(settings)
        build_engine(checkpoint.network, settings.device, settings.precision)
    except ModelError as error:
        return _usage_error(error)
    return run_server(settings, checkpoint)


def _new_key(options: argparse.Namespace) -> int:
    from app.api.auth import key_line, make_key

    key = make_key()
    print(f"The key, shown only now: {key}", file=sys.stderr)
    print(key_line(key, " ".join(options.name.split())))
    return EXIT_OK


def _bench_engine(options: argparse.Namespace) -> int:
    from app.cli.bench_engine import run_engine_bench
    from model.errors import CheckpointError

    try:
        run_engine_bench(
            options.checkpoint, options.images, options.passes, options.rounds, as_json=options.json
        )
    except CheckpointError as error:
        return _usage_error(error)
    return EXIT_OK


def _usage_error(error: Exception) -> int:
    print(f"dropserve: {error}", file=sys.stderr)
    return EXIT_USAGE
