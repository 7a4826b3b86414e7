"""`dropserve predict`: its options. The code behind it is imported only when it runs."""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.options import Commands, add_model_option, add_parameter_options
from app.errors import UsageError
from app.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from app.client import AsyncDropserveClient

# Files of the user on the user's own machine need no limit on bytes or time.
_NO_LIMIT = 2**40
_LIMITS = {"device", "precision", "max_pixels", "max_image_memory", "max_passes"}
_URL_VARIABLE, _API_KEY_VARIABLE = f"{PREFIX}URL", f"{PREFIX}API_KEY"
_DESCRIPTION = """\
Say which digit each image shows, and how certain the network is. One image is shown as dots, one
for each pass of the network with dropout; several as a table."""
_EPILOG = """\
exit codes: 0 every image was answered (abstaining counts), 1 some failed, 2 wrong usage,
3 the network abstained and --fail-on-abstain was given, 130 Ctrl-C"""


def add_predict_command(commands: Commands) -> None:
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
        help="images, folders of images, patterns such as 'scans/*.png'; - is standard input; for "
        "a network that takes numbers, .json and .npy files of one input each",
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
    add_model_option(parser)
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        default=os.environ.get(_API_KEY_VARIABLE) or None,
        help="key for a server that requires one; other users of this machine can see an option, "
        f"but not the variable [{_API_KEY_VARIABLE}]",
    )
    formats = parser.add_mutually_exclusive_group()
    line = "a line of JSON for each image: its file and the API's answer"
    for name, text in (("json", line), ("csv", "a row for each image")):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=f"print {text}"
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
    if options.fail_on_abstain and options.dropout is not None:
        raise UsageError(
            "--fail-on-abstain has no meaning with --dropout, which leaves decisions out; leave "
            "out one of the two"
        )
    if options.format is None and options.output is not None:
        endings = {".json": "json", ".jsonl": "json", ".csv": "csv"}
        options.format = endings.get(options.output.suffix.lower())
    from app.cli.predict.run import run_predict

    return run_predict(options, _connect(options))


@asynccontextmanager
async def _connect(options: argparse.Namespace) -> AsyncIterator["AsyncDropserveClient"]:
    """A client of the server, or of its application in this process, which answers the same."""
    import httpx

    from app.client import AsyncDropserveClient

    if options.url is not None and options.checkpoint is None:
        try:
            client = AsyncDropserveClient(options.url, model=options.model, api_key=options.api_key)
        except ValueError as error:
            raise UsageError(str(error)) from error
        async with client:
            yield client
        return
    settings = load_settings(
        os.environ, {"checkpoint": options.checkpoint, "default_model": options.model}
    )
    # The engine is imported only now: --url needs none, and wrong usage answers at once.
    from app.api.application import create_app
    from app.inference.served_checkpoint import load_served_checkpoint

    here = Settings(
        **settings.model_dump(include=_LIMITS),
        max_body_bytes=_NO_LIMIT,
        max_timeout_ms=_NO_LIMIT,
    )
    app = create_app(here, load_served_checkpoint(settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = AsyncDropserveClient(
        "http://localhost", timeout=httpx.Timeout(None), transport=transport
    )
    async with app.router.lifespan_context(app), client:
        yield client
