"""`dropserve score` at work: what is left to do, who does it, and how it ends."""

import argparse
import errno
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UsageError
from app.scoring.items import WorkerDiedError
from app.scoring.on_cores import score_on_cores, usable_cores
from app.scoring.options import ScoreOptions
from app.scoring.parts import Parts, failures_path
from app.scoring.progress import Progress
from app.scoring.sources import Chunk, Input
from app.settings import SettingsError
from model.errors import ModelError
from model.files import DEFAULT_CHECKPOINT

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CONTINUE = "run the same command again to continue"


def run_score(given: argparse.Namespace, stderr: TextIO) -> int:
    """Scores the images that the options name; returns the exit code."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        return _run(given, stderr)
    except KeyboardInterrupt:
        message, code = f"interrupted; {_CONTINUE}", EXIT_INTERRUPTED
        stderr.write("\n")
    except (UsageError, SettingsError, ModelError) as error:
        message, code = str(error), EXIT_USAGE
    except WorkerDiedError as error:
        message, code = str(error), EXIT_FAILED
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            what = f"there is no room for the table ({what}): make some, then {_CONTINUE}"
        message, code = f"{given.output}: {what}", EXIT_FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)
    stderr.write(f"dropserve: {message}\n")
    return code


def _run(given: argparse.Namespace, stderr: TextIO) -> int:
    options = ScoreOptions.read(given)
    source = Input(given.inputs, given.column)
    images, digest = source.survey()
    path = options.settings.checkpoint or DEFAULT_CHECKPOINT
    try:
        described = options.describe(path.read_bytes())
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    manifest = {"dropserve": version("dropserve"), **described, "images": images, "digest": digest}
    output: Path = given.output
    parts = Parts(output, manifest)
    if not given.overwrite:
        tally = parts.read_finished()
        if tally is not None:
            stderr.write(f"dropserve: {output} is there already, from a run like this one\n")
            return _exit_code(tally, output, stderr)
    with parts.open(start_anew=given.overwrite), Progress(stderr, images) as progress:
        numbers = 0

        def left() -> Iterator[Chunk]:
            nonlocal numbers
            for chunk in source.chunks():
                numbers = chunk.number + 1
                failed = parts.count_failures(chunk.number, chunk.rows)
                if failed is None:
                    yield chunk
                else:
                    progress.found(chunk.rows, failed)

        if given.ray is None:
            workers = given.workers or len(usable_cores()) or os.cpu_count() or 1
            scored = score_on_cores(options, left(), workers)
        else:
            # Ray is imported only where it is asked for.
            from app.scoring.on_ray import score_on_ray

            build = f"Dropserve {manifest['dropserve']} with the network {manifest['model']}"
            scored = score_on_ray(options, left(), given.workers, given.ray, build)
        with closing(scored):
            for part in scored:
                parts.write(part.number, part.content)
                progress.advance(part.rows, part.failures)
        tally = {"images": images, "failed": progress.failed}
        parts.join(numbers, tally)
    stderr.write(
        f"dropserve: {output}: {images:,} images, {progress.scored:,} of them in this run in "
        f"{progress.seconds:,.1f} s ({progress.start_seconds:,.1f} s until the first), "
        f"{progress.scored / progress.seconds:,.0f}/s\n"
    )
    return _exit_code(tally, output, stderr)


def _exit_code(tally: Mapping[str, Any], output: Path, stderr: TextIO) -> int:
    if not tally["failed"]:
        return EXIT_OK
    stderr.write(
        f"dropserve: {tally['failed']:,} of {tally['images']:,} images failed; "
        f"{failures_path(output)} says which and why\n"
    )
    return EXIT_FAILED
