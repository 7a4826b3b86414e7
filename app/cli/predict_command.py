"""`dropserve predict`: its options. What it does is imported only when it runs."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

URL_VARIABLE = "DROPSERVE_URL"
API_KEY_VARIABLE = "DROPSERVE_API_KEY"

_DESCRIPTION = """\
Say which digit each image shows, and how sure the network is. One image is shown as dots, one dot
for each pass of the network with dropout; several as a table."""
_EPILOG = """\
exit codes: 0 every image was answered (abstaining counts), 1 some failed, 2 wrong usage,
3 with --fail-on-abstain some were abstained from, 130 Ctrl-C"""


def add_predict_command(commands: "Commands") -> None:
    """Adds `predict` to the commands."""
    parser = commands.add_parser(
        "predict",
        help="say which digit images show",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_predict)
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILES",
        help="images, folders of images, patterns such as 'scans/*.png'; - is standard input",
    )
    parser.add_argument("--passes", type=int, metavar="N", help="stochastic passes (default: 50)")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="determines the dropout masks of every image; without it each image draws its own",
    )
    parser.add_argument(
        "--estimator",
        choices=["independent", "balanced"],
        help="how the masks of the passes are drawn (default: independent)",
    )
    parser.add_argument(
        "--max-standard-error",
        type=float,
        metavar="E",
        help="stop as soon as the mean is known this well; --passes is then the maximum",
    )
    parser.add_argument(
        "--preprocess",
        choices=["auto", "none"],
        help="auto finds the ink in any picture; none takes 28x28, white on black, as it is "
        "(default: auto)",
    )
    parser.add_argument(
        "--coverage",
        type=float,
        metavar="C",
        help="also say which digits hold the true one so often, such as 0.99",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--url",
        metavar="URL",
        help="ask this server, such as http://127.0.0.1:8000; without one the network runs here "
        f"[{URL_VARIABLE}]",
    )
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="run this network here; without it the committed one [DROPSERVE_CHECKPOINT]",
    )
    add_api_key_option(parser)
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="a line of JSON for each image: its file, and the answer of the API",
    )
    formats.add_argument(
        "--csv", dest="format", action="store_const", const="csv", help="a row for each image"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write there; the ending .json, .jsonl or .csv chooses the format",
    )
    parser.add_argument(
        "--fail-on-abstain",
        action="store_true",
        help="exit with 3 if the network would rather not answer some image",
    )


def add_api_key_option(parser: argparse.ArgumentParser) -> None:
    """The key of whoever asks a server; see `given_api_key`."""
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="for a server that wants one; others on this machine can see it here, and not in the "
        f"variable [{API_KEY_VARIABLE}]",
    )


def given_api_key(options: argparse.Namespace) -> str | None:
    """The option, or else the variable; None without either."""
    key: str | None = options.api_key
    return key if key is not None else os.environ.get(API_KEY_VARIABLE) or None


def _predict(options: argparse.Namespace) -> int:
    if options.url is None and options.checkpoint is None:
        options.url = os.environ.get(URL_VARIABLE) or None
    options.api_key = given_api_key(options)
    if options.format is None and options.output is not None:
        endings = {".json": "json", ".jsonl": "json", ".csv": "csv"}
        options.format = endings.get(options.output.suffix.lower())
    from app.cli.predict_run import run_predict

    return run_predict(options, sys.stdin, sys.stdout, sys.stderr)
