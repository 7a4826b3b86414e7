"""Predicts the images of `dropserve predict`, and writes the answers."""

import argparse
import asyncio
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, TextIO

from tqdm import tqdm

from app.cli.options import given_parameters
from app.cli.predict.inputs import Input, find_inputs
from app.cli.predict.writers import Csv, Dots, JsonLines, Result, Table, Terminal, Writer
from app.client import AsyncDropserveClient, DropserveError, ImageError, RequestError
from app.errors import EXIT_ABSTAINED, EXIT_FAILED, EXIT_OK, EXIT_USAGE, UsageError

Connection = AbstractAsyncContextManager[AsyncDropserveClient]

# The progress bar, or a reader of a pipe, sees something new after this many images.
_IMAGES_AT_A_TIME = 64


def run_predict(options: argparse.Namespace, connection: Connection) -> int:
    """Predicts the images that the options name; returns the exit code.

    Results go to standard output or the file of --output, everything else to standard error.

    Args:
        options: of the command line.
        connection: entered only if an image can be read.

    Raises:
        UsageError, SettingsError, ModelError: the command cannot be run as it was given.
    """
    inputs = find_inputs(options.files, sys.stdin.buffer)
    try:
        with _open_output(options) as stream:
            outcomes = asyncio.run(_predict_all(options, connection, inputs, stream))
            stream.flush()
    except RequestError as error:
        raise UsageError(str(error)) from error
    except BrokenPipeError:
        # The reader wants no more; what is still buffered must not be written again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (DropserveError, OSError) as error:
        sys.stderr.write(f"dropserve: {getattr(error, 'strerror', None) or error}\n")
        return EXIT_FAILED
    if options.fail_on_abstain and outcomes["undecided"]:
        sys.stderr.write(
            "dropserve: this network has no threshold and never abstains, so --fail-on-abstain has "
            "no meaning; choose another checkpoint, or leave the option out\n"
        )
        return EXIT_USAGE
    if outcomes["failed"]:
        return EXIT_FAILED
    return EXIT_ABSTAINED if options.fail_on_abstain and outcomes["abstain"] else EXIT_OK


async def _predict_all(
    options: argparse.Namespace, connection: Connection, inputs: Sequence[Input], stream: TextIO
) -> Counter[str]:
    """Writes the answers; returns how many images had each outcome."""
    outcomes: Counter[str] = Counter()
    parameters = given_parameters(options)
    is_readable = any(not isinstance(each.image, ImageError) for each in inputs)
    async with connection if is_readable else nullcontext() as client:
        labels: Sequence[str] = ()
        if client is not None and options.format is None:
            labels = (await client.model())["config"]["labels"]
        writer: Writer | None = None
        disable = True if len(inputs) <= _IMAGES_AT_A_TIME else None  # None: not on a terminal
        with tqdm(total=len(inputs), unit="image", file=sys.stderr, disable=disable) as bar:
            for start in range(0, len(inputs), _IMAGES_AT_A_TIME):
                chunk = inputs[start : start + _IMAGES_AT_A_TIME]
                results = await _predict(client, chunk, parameters)
                # Created after the first answers: a wrong request then prints no header.
                writer = writer or _create_writer(options, stream, labels, inputs)
                with bar.external_write_mode(file=stream):
                    for each, result in zip(chunk, results, strict=True):
                        writer.write(each.name, result)
                        if isinstance(result, DropserveError):
                            outcomes["failed"] += 1
                            sys.stderr.write(f"dropserve: {each.name}: {result}\n")
                        else:
                            decision = result.decision
                            outcomes[decision.outcome if decision else "undecided"] += 1
                bar.update(len(chunk))
    return outcomes


async def _predict(
    client: AsyncDropserveClient | None, inputs: Sequence[Input], parameters: dict[str, Any]
) -> list[Result]:
    images = [each.image for each in inputs if not isinstance(each.image, ImageError)]
    answers = iter(await client.predict_mc_batch(images, **parameters) if client else [])
    return [each.image if isinstance(each.image, ImageError) else next(answers) for each in inputs]


def _create_writer(
    options: argparse.Namespace, stream: TextIO, labels: Sequence[str], inputs: Sequence[Input]
) -> Writer:
    if options.format == "json":
        return JsonLines(stream)
    if options.format == "csv":
        return Csv(stream)
    terminal = Terminal.of(stream)
    if len(inputs) == 1:
        return Dots(stream, terminal, labels)
    return Table(stream, terminal, labels, [each.name for each in inputs])


def _open_output(options: argparse.Namespace) -> AbstractContextManager[TextIO]:
    if options.output is not None:
        try:
            return open(options.output, "w", encoding="utf-8", newline="")  # noqa: PTH123
        except OSError as error:
            raise UsageError(f"{options.output} cannot be written: {error.strerror}") from error
    if isinstance(sys.stdout, io.TextIOWrapper):
        if options.format is None:
            sys.stdout.reconfigure(errors="replace")
        else:
            sys.stdout.reconfigure(encoding="utf-8", newline="")
    return nullcontext(sys.stdout)
