"""`dropserve predict`: its options. The code behind it is imported only when it runs."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.options import add_api_key_option, add_parameter_options
from app.settings import PREFIX

if TYPE_CHECKING:
    from app.cli.options import Commands

_URL_VARIABLE = f"{PREFIX}URL"
_DESCRIPTION = """\
Say which digit each image shows, and how certain the network is. One image is shown as dots, one
for each pass of the network with dropout; several as a table."""
_EPILOG = """\
exit codes: 0 every image was answered (abstaining counts), 1 some failed, 2 wrong usage,
3 the network abstained and --fail-on-abstain was given, 130 Ctrl-C"""


def add_predict_command(commands: "Commands") -> None:
    """Adds `predict`."""
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
    add_parameter_options(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--url",
        default=os.environ.get(_URL_VARIABLE) or None,
        help="send the images to this server, such as http://127.0.0.1:8000; without it the "
        f"network runs in this command [{_URL_VARIABLE}]",
    )
    source.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help=f"run this network in this command; without it the committed one [{PREFIX}CHECKPOINT]",
    )
    add_api_key_option(parser)
    formats = parser.add_mutually_exclusive_group()
    for name, text in (
        ("json", "print a line of JSON for each image: its file and the API's answer"),
        ("csv", "print a row for each image"),
    ):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=text
        )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write to this file; the ending .json, .jsonl or .csv chooses the format",
    )
    parser.add_argument(
        "--fail-on-abstain", action="store_true", help="exit with 3 if the network abstains"
    )


def _predict(options: argparse.Namespace) -> int:
    if options.format is None and options.output is not None:
        endings = {".json": "json", ".jsonl": "json", ".csv": "csv"}
        options.format = endings.get(options.output.suffix.lower())
    from app.cli.predict.run import run_predict

    return run_predict(options)
