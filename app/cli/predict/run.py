"""Predicts the images of `dropserve predict`, and writes the answers."""

import argparse
import asyncio
import io
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, TextIO

import httpx
from tqdm import tqdm

from app.cli.options import given_parameters
from app.cli.predict.inputs import Input, find_inputs
from app.cli.predict.writers import Csv, Dots, JsonLines, Result, Table, Terminal, Writer
from app.client.client import AsyncDropserveClient
from app.client.errors import DropserveError, ImageError, RequestError
from app.errors import EXIT_ABSTAINED, EXIT_FAILED, EXIT_OK, EXIT_USAGE, UsageError
from app.settings import Settings, load_settings

# The progress bar, or a reader of a pipe, sees something new after this many images.
_IMAGES_AT_A_TIME = 64
# Files of the user on the user's own machine need no limit on bytes or time.
_NO_LIMIT = 2**40


def run_predict(options: argparse.Namespace) -> int:
    """Predicts the images that the options name; returns the exit code.

    Results go to standard output or the file of --output, everything else to standard error.

    Raises:
        UsageError, SettingsError, ModelError: the command cannot be run as it was given.
    """
    inputs = find_inputs(options.files, sys.stdin.buffer)
    try:
        with _open_output(options) as stream:
            outcomes = asyncio.run(_predict_all(options, inputs, stream))
            stream.flush()
    except RequestError as error:
        raise UsageError(str(error)) from error
    except DropserveError as error:
        sys.stderr.write(f"dropserve: {error}\n")
        return EXIT_FAILED
    except BrokenPipeError:
        # The reader wants no more; what is still buffered must not be written again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        sys.stderr.write(f"dropserve: {error.strerror or error}\n")
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
    options: argparse.Namespace, inputs: Sequence[Input], stream: TextIO
) -> Counter[str]:
    """Writes the answers; returns how many images had each outcome."""
    outcomes: Counter[str] = Counter()
    parameters = given_parameters(options)
    async with _connect(options, inputs) as client:
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
                        outcomes[_outcome_of(result)] += 1
                        if isinstance(result, DropserveError):
                            sys.stderr.write(f"dropserve: {each.name}: {result}\n")
                bar.update(len(chunk))
    return outcomes


def _outcome_of(result: Result) -> str:
    if isinstance(result, DropserveError):
        return "failed"
    return result.decision.outcome if result.decision else "undecided"


async def _predict(
    client: AsyncDropserveClient | None, inputs: Sequence[Input], parameters: dict[str, Any]
) -> list[Result]:
    images = [each.image for each in inputs if not isinstance(each.image, ImageError)]
    answers: list[Result] = []
    if client is not None and images:
        answers = await client.predict_mc_batch(images, **parameters)
    remaining = iter(answers)
    return [
        each.image if isinstance(each.image, ImageError) else next(remaining) for each in inputs
    ]


@asynccontextmanager
async def _connect(
    options: argparse.Namespace, inputs: Sequence[Input]
) -> AsyncIterator[AsyncDropserveClient | None]:
    """A client of the server, or of the network in this process; None if no image is readable."""
    if all(isinstance(each.image, ImageError) for each in inputs):
        yield None
    elif options.url is not None and options.checkpoint is None:
        try:
            client = AsyncDropserveClient(options.url, api_key=options.api_key)
        except ValueError as error:
            raise UsageError(str(error)) from error
        async with client:
            yield client
    else:
        async with _run_here(options) as client:
            yield client


@asynccontextmanager
async def _run_here(options: argparse.Namespace) -> AsyncIterator[AsyncDropserveClient]:
    """A client of the server's application in this process, so that the answers are the same."""
    settings = load_settings(os.environ, {"checkpoint": options.checkpoint})
    # Torch is imported only now: --url needs none, and wrong usage answers at once.
    import torch

    from app.api.application import create_app
    from app.inference.served_checkpoint import load_served_checkpoint

    torch.set_num_threads(1)  # as in a server
    here = Settings(
        **settings.model_dump(include={"device", "precision", "max_pixels", "max_passes"}),
        max_body_bytes=_NO_LIMIT,
        max_timeout_ms=_NO_LIMIT,
    )
    app = create_app(here, load_served_checkpoint(settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        AsyncDropserveClient(
            "http://localhost", timeout=httpx.Timeout(None), transport=transport
        ) as client,
    ):
        yield client


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
        if options.format is not None:
            sys.stdout.reconfigure(encoding="utf-8", newline="")
        else:
            sys.stdout.reconfigure(errors="replace")
    return nullcontext(sys.stdout)
