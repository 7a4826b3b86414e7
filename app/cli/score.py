"""`dropserve score`: its options. The code behind it is imported only when it runs."""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.cli.options import Commands, add_model_option, add_parameter_options
from app.errors import EXIT_FAILED, EXIT_INTERRUPTED
from app.schemas import McParameters
from app.scoring.question import PARAMETERS

_DESCRIPTION = """\
Score millions of images into one Parquet table: a row for each image, in the order of the input.
After an interruption at any moment, even a kill, the same command continues where it stopped.
Images that cannot be scored are listed in a second file, which ends in .errors.jsonl."""
# The extra that installs each package that only this command needs.
_EXTRAS = {"pyarrow": "score", "ray": "ray"}
_INTERRUPTED = b"\ndropserve: interrupted; run the same command again to continue\n"
_EPILOG = """\
exit codes: 0 every image was scored, 1 some failed or the disk is full, 2 wrong usage,
130 Ctrl-C"""


def add_score_command(commands: Commands) -> None:
    """Adds `score`."""
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
        "Parquet files, patterns such as 'scans/*.zip', or URLs of these as s3:// and gs://",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the table, .parquet"
    )
    add_parameter_options(parser, PARAMETERS)
    parser.set_defaults(**McParameters().model_dump(include=set(PARAMETERS)))
    parser.add_argument(
        "--column", metavar="NAME", help="of Parquet files (default: the one that holds images)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="the network; without it the committed one [DROPSERVE_CHECKPOINT]",
    )
    add_model_option(parser)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads, or actors on Ray (default: one for each core)",
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
        help="start again: replace the table, and discard what an unfinished run has scored",
    )


def _score(options: argparse.Namespace) -> int:
    try:
        with _ended_by_signals():
            from app.cli.scoring import run_score

            return run_score(options, sys.stderr)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRAS:
            raise
        sys.stderr.write(
            f"dropserve: {missing} is not installed; pip install 'dropserve[{_EXTRAS[missing]}]' "
            "installs it\n"
        )
        return EXIT_FAILED


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process at once, whatever each of its threads is doing.

    What it was writing is not used unless it is whole. An exception would not do: it gets lost in a
    destructor, comes late where C++ waits, and where it strikes a lock of a pool, threads wait for
    ever.
    """
    signals = [
        each
        for each in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(each) is not signal.SIG_IGN
    ]
    received, sent = socket.socketpair()
    sent.setblocking(False)

    def wait() -> None:
        with received:
            while number := received.recv(1):
                if number[0] in signals:
                    os.write(2, _INTERRUPTED)
                    os._exit(EXIT_INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()
    before = signal.set_wakeup_fd(sent.fileno(), warn_on_full_buffer=False)
    previous = [signal.signal(each, lambda *_: None) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, previous, strict=True):
            signal.signal(each, handler)
        signal.set_wakeup_fd(before)
        sent.close()
