"""`dropserve score` at work: what is left to do, who does it, and how it ends."""

import argparse
import errno
import os
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

from app.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, UsageError
from app.scoring.on_cores import Scored, WorkerDiedError, score_on_cores, usable_cores
from app.scoring.parts import Manifest, Parts, failures_path
from app.scoring.progress import Progress
from app.scoring.question import Question
from app.scoring.sources import Chunk, Input
from app.settings import SettingsError, load_settings
from model.errors import ModelError
from model.files import DEFAULT_CHECKPOINT

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CONTINUE = "run the same command again to continue"


def run_score(options: argparse.Namespace, stderr: TextIO) -> int:
    """Scores the images that the options name; returns the exit code."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        return _run(options, stderr)
    except KeyboardInterrupt:
        stderr.write(f"\ndropserve: interrupted; {_CONTINUE}\n")
        return EXIT_INTERRUPTED
    except (UsageError, SettingsError, ModelError) as error:
        stderr.write(f"dropserve: {error}\n")
        return EXIT_USAGE
    except WorkerDiedError as error:
        stderr.write(f"dropserve: {error}\n")
        return EXIT_FAILED
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            what = f"there is no room for the table ({what}): make some, then {_CONTINUE}"
        stderr.write(f"dropserve: {options.output}: {what}\n")
        return EXIT_FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(options: argparse.Namespace, stderr: TextIO) -> int:
    settings = load_settings(os.environ, {"checkpoint": options.checkpoint})
    question = Question(
        passes=options.passes,
        seed=options.seed,
        estimator=options.estimator,
        preprocess=options.preprocess,
        column=options.column,
        settings=settings,
    )
    source = Input(options.inputs, options.column)
    images, digest = source.survey()
    manifest = {
        "dropserve": version("dropserve"),
        **question.describe(_read_checkpoint(settings.checkpoint or DEFAULT_CHECKPOINT)),
        "images": images,
        "digest": digest,
    }
    output: Path = options.output
    parts = Parts(output, manifest)
    if not options.overwrite:
        tally = parts.read_finished()
        if tally is not None:
            stderr.write(f"dropserve: {output} is there already, from a run like this one\n")
            return _exit_code(tally, output, stderr)
    with parts.open(start_anew=options.overwrite), Progress(stderr, images) as progress:
        chunks = source.chunks()
        numbers = 0

        def left() -> Iterator[Chunk]:
            nonlocal numbers
            for chunk in chunks:
                numbers = chunk.number + 1
                failed = parts.count_failures(chunk.number, chunk.rows)
                if failed is None:
                    yield chunk
                else:
                    progress.found(chunk.rows, failed)

        with closing(_score(options, question, left(), parts, manifest)) as scored:
            for each in scored:
                progress.advance(each.rows, each.failures)
        tally = {"images": images, "failed": progress.failed}
        parts.join(numbers, tally)
    stderr.write(
        f"dropserve: {output}: {images:,} images, {progress.scored:,} of them in this run in "
        f"{progress.seconds:,.1f} s ({progress.start_seconds:,.1f} s until the first), "
        f"{progress.scored / progress.seconds:,.0f}/s\n"
    )
    return _exit_code(tally, output, stderr)


def _score(
    options: argparse.Namespace,
    question: Question,
    chunks: Iterable[Chunk],
    parts: Parts,
    manifest: Manifest,
) -> Generator[Scored, None, None]:
    if options.ray is None:
        workers = options.workers or len(usable_cores()) or os.cpu_count() or 1
        return score_on_cores(question, chunks, parts, workers)
    # Ray is imported only where it is asked for.
    from app.scoring.on_ray import Build, score_on_ray

    build = Build(manifest["dropserve"], manifest["model"])
    return score_on_ray(question, chunks, parts, options.workers, address=options.ray, build=build)


def _read_checkpoint(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the checkpoint {path}: {error.strerror}") from error


def _exit_code(tally: Mapping[str, Any], output: Path, stderr: TextIO) -> int:
    failed = tally["failed"]
    if not failed:
        return EXIT_OK
    stderr.write(
        f"dropserve: {failed:,} of {tally['images']:,} images failed; {failures_path(output)} "
        "says which and why\n"
    )
    return EXIT_FAILED
