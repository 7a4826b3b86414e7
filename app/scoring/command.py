"""`dropserve score`: its options. What it does is imported only when it runs."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import EXIT_FAILED

if TYPE_CHECKING:
    from app.cli.predict_command import Commands

_DESCRIPTION = """\
Score millions of images into one Parquet table: a row an image, in the order of the input. Killed
or interrupted at any moment, the same command goes on where it stopped. Images that cannot be
scored are listed next to the table, in a file that ends in .errors.jsonl."""
# What brings the packages that only this command needs.
_EXTRAS = {"pyarrow": "score", "ray": "ray"}
_EPILOG = """\
exit codes: 0 every image was scored, 1 some failed or the disk is full, 2 wrong usage,
130 Ctrl-C"""


def add_score_command(commands: "Commands") -> None:
    """Adds `score` to the commands."""
    parser = commands.add_parser(
        "score",
        help="score millions of images into a table",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_score)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images, folders, zip and tar archives of images, IDX files, .npy and .npz arrays, "
        "Parquet files, patterns such as 'scans/*.zip'",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the table, .parquet"
    )
    parser.add_argument(
        "--passes", type=int, default=50, metavar="N", help="stochastic passes (default: 50)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="determines the dropout masks of every image; without it each image draws its own",
    )
    parser.add_argument(
        "--estimator",
        choices=["independent", "balanced"],
        default="independent",
        help="how the masks of the passes are drawn (default: independent)",
    )
    parser.add_argument(
        "--preprocess",
        choices=["auto", "none"],
        default="auto",
        help="auto finds the ink in any picture; none takes 28x28, white on black, as it is "
        "(default: auto)",
    )
    parser.add_argument(
        "--column", metavar="NAME", help="of Parquet files (default: the one that holds images)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="the network; without it the committed one [DROPSERVE_CHECKPOINT]",
    )
    parser.add_argument(
        "--workers",
        type=_positive,
        metavar="N",
        help="processes, one thread each (default: all cores)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="score on a Ray cluster: its address, auto on one of its nodes, or local for a Ray "
        "of its own; every node needs the input under the same paths",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew: replace the table, and forget what an unfinished run has scored",
    )


def _score(options: argparse.Namespace) -> int:
    try:
        from app.scoring.run import run_score

        return run_score(options, sys.stderr)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        sys.stderr.write(
            f"dropserve: {missing} is not installed; pip install 'dropserve[{_EXTRAS[missing]}]' "
            "brings what this command needs\n"
        )
        return EXIT_FAILED


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
