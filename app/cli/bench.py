"""`dropserve bench engine`: its options."""

import argparse
from pathlib import Path

from app.cli.options import Commands
from app.errors import EXIT_OK, UsageError
from model.files import DEFAULT_CHECKPOINT


def add_bench_command(commands: Commands) -> None:
    """Adds `bench engine`."""
    bench = commands.add_parser("bench", help="measure", description="Measure on this machine.")
    parser = bench.add_subparsers(required=True, metavar="WHAT").add_parser(
        "engine",
        help="the engine against the textbook loop",
        description="Time MC dropout in the engine, in the textbook loop of eager passes, and as "
        "one batch of all passes through the whole network, in one process on one thread; print "
        "medians and ratios.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(command=_bench_engine)
    parser.add_argument("--checkpoint", type=Path, default=DEFAULT_CHECKPOINT, help="the network")
    parser.add_argument("--device", default="cpu", help="what computes: cpu, or cuda")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8, 32], help="batch sizes")
    parser.add_argument(
        "--passes", type=int, nargs="+", default=[10, 50, 100, 1000], help="numbers of passes"
    )
    parser.add_argument("--rounds", type=int, default=15, help="repetitions of every measurement")
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")


def _bench_engine(options: argparse.Namespace) -> int:
    # Torch is imported only now, so that help answers at once.
    try:
        from app.cli.bench_engine import run_engine_bench
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError(
            "bench engine compares with torch, which is not installed: pip install "
            "'dropserve[torch]'"
        ) from error

    run_engine_bench(options)
    return EXIT_OK
