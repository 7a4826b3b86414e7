"""`dropserve score` at work: what is asked, what is shown, and how it ends."""

import argparse
import errno
import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
from tqdm import tqdm

from app.errors import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    ApiError,
    UsageError,
)
from app.inference.parameters import parse_parameters
from app.schemas import McParameters
from app.scoring.parts import Parts, failures_in, failures_path
from app.scoring.question import PARAMETERS, ClusterError, Question
from app.scoring.sources import Block, cut, survey
from app.settings import SettingsError, load_settings
from model.errors import ModelError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CONTINUE = "run the same command again to continue"
# In a log.
_SECONDS_BETWEEN_LINES = 30.0
# More than these would bury everything else; the list of failures has them all.
_SHOWN_FAILURES = 10


def run_score(given: argparse.Namespace, stderr: TextIO) -> int:
    """Scores the images that the options name; returns the exit code."""
    try:
        return _run(given, stderr)
    except (UsageError, SettingsError, ModelError) as error:
        message, code = str(error), EXIT_USAGE
    except ClusterError as error:
        message, code = f"{error}; {_CONTINUE}", EXIT_FAILED
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            what = f"there is no room for the table ({what}): make some, then {_CONTINUE}"
        message, code = f"{given.output}: {what}", EXIT_FAILED
    stderr.write(f"dropserve: {message}\n")
    return code


def _run(given: argparse.Namespace, stderr: TextIO) -> int:
    question = read_question(given)
    output: Path = given.output
    pieces, digest = survey(given.inputs, given.column)
    images = sum(piece.stop - piece.start for piece in pieces)
    parts = Parts(output, {**question.describe(), "images": images, "digest": digest})
    if not given.overwrite and (answered := parts.count_finished()) is not None:
        stderr.write(f"dropserve: {output} is there already, from a run like this one\n")
        return _exit_code(images, images - answered, output, stderr)
    with parts.open(start_anew=given.overwrite), Progress(stderr, images) as shown:

        def left() -> Iterator[Block]:
            for block in cut(pieces, question.parameters.passes):
                if (part := parts.read(block.first_row)) is None:
                    yield block
                else:
                    shown.found(block.rows, len(failures_in(part)))

        def keep(batch: pa.RecordBatch) -> None:
            parts.write(batch)
            shown.advance(batch.num_rows, failures_in(batch))

        with closing(_scored(given, question, left())) as scored:
            parts.join(map(keep, scored))
    stderr.write(
        f"dropserve: {output}: {images:,} images, {shown.scored:,} of them in this run in "
        f"{shown.seconds:,.1f} s ({shown.start_seconds:,.1f} s until the first), "
        f"{shown.scored / shown.seconds:,.0f}/s\n"
    )
    return _exit_code(images, shown.failed, output, stderr)


def _scored(
    given: argparse.Namespace, question: Question, blocks: Iterator[Block]
) -> Generator[pa.RecordBatch, None, None]:
    # The engine, or Ray, is imported only where it is needed.
    if given.ray is None:
        from app.scoring.local import score_locally

        return score_locally(question, blocks, given.workers)
    from app.scoring.on_ray import score_on_ray

    return score_on_ray(question, blocks, given.workers, given.ray)


def _exit_code(images: int, failed: int, output: Path, stderr: TextIO) -> int:
    if not failed:
        return EXIT_OK
    stderr.write(
        f"dropserve: {failed:,} of {images:,} images failed; "
        f"{failures_path(output)} says which and why\n"
    )
    return EXIT_FAILED


def read_question(given: argparse.Namespace) -> Question:
    """From the command line and the environment.

    Raises:
        UsageError: a value is out of range.
        SettingsError: a variable is unknown, or its value impossible.
    """
    if given.workers is not None and given.workers < 1:
        raise UsageError("--workers must be a whole number from 1 on")
    settings = load_settings(
        os.environ, {"checkpoint": given.checkpoint, "default_model": getattr(given, "model", None)}
    )
    pairs = [(name, getattr(given, name)) for name in PARAMETERS]
    try:
        parameters = parse_parameters(pairs, McParameters, settings)
    except ApiError as error:
        raise UsageError(f"--{error.message}") from error
    return Question(parameters, given.column, settings)


class Progress:
    """A bar on a terminal, a line now and then in a log, and the first failures.

    Args:
        stream: standard error.
        total: images of the whole input.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self._bar: Any = tqdm(
            total=total, unit="image", file=stream, disable=None, smoothing=0.1, dynamic_ncols=True
        )
        self._total = total
        self.seconds = 0.0
        self.start_seconds = 0.0  # until the first images were scored
        self.scored = 0  # in this run
        self.done = self.failed = self._shown = 0
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._started
        self._bar.close()

    def found(self, images: int, failed: int) -> None:
        """Images that an earlier run has scored."""
        self.done += images
        self.failed += failed
        if not self._bar.disable:
            # What it does not count into the rate.
            self._bar.initial += images
            self._bar.n += images

    def advance(self, images: int, failures: list[dict[str, Any]]) -> None:
        """Images that this run has scored."""
        now = time.monotonic()
        if self.scored == 0:
            self.start_seconds = now - self._started
        self.done += images
        self.scored += images
        self.failed += len(failures)
        lines = [
            f"dropserve: {failure['source']}: {failure['message']}"
            for failure in failures[: _SHOWN_FAILURES - self._shown]
        ]
        self._shown += len(lines)
        if lines and self._shown == _SHOWN_FAILURES:
            lines.append(
                "dropserve: further failures are only listed, in the file next to the table"
            )
        self._bar.update(images)
        if self._bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self.scored / (now - self._started)
            left = tqdm.format_interval((self._total - self.done) / rate)
            lines.append(
                f"{self.done:,} of {self._total:,} images, {rate:,.0f}/s, {left} left, "
                f"{self.failed:,} failed"
            )
        if lines:
            tqdm.write("\n".join(lines), file=self._stream)
