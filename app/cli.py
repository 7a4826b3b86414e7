"""The command line: `dropserve`, also `python -m app`."""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from app.settings import PREFIX, Settings, SettingsError, load_settings

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


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
        default = f"; default {field.default}" if field.default is not None else ""
        serve.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="VALUE",
            help=f"{field.description}{default} [{PREFIX}{name.upper()}]",
        )

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
    # Torch is imported only now, so that help and wrong settings answer at once.
    from app.factory import load_served_checkpoint
    from app.server import run_server
    from model.engine import build_engine
    from model.errors import ModelError

    try:
        checkpoint = load_served_checkpoint(settings)
        build_engine(checkpoint.network, settings.device, settings.precision)
    except ModelError as error:
        return _usage_error(error)
    return run_server(settings, checkpoint)


def _bench_engine(options: argparse.Namespace) -> int:
    from app.bench_engine import run_engine_bench
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
