"""`dropserve predict` at work: asks the network here, or a server, and writes the answers."""

import argparse
import asyncio
import io
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Any, TextIO

import httpx
from tqdm import tqdm

from app.cli.predict_inputs import Input, find_inputs
from app.cli.predict_output import Csv, Dots, JsonLines, Result, Table, Terminal, Writer
from app.client import AsyncDropserveClient, DropserveError, ImageError, RequestError
from app.errors import EXIT_ABSTAINED, EXIT_FAILED, EXIT_OK, EXIT_USAGE, UsageError
from app.settings import Settings, SettingsError, load_settings

# Images between two looks of the progress bar; a pipe gets its lines as often.
_IMAGES_AT_A_TIME = 64
_PARAMETERS = (
    "passes",
    "seed",
    "estimator",
    "max_standard_error",
    "preprocess",
    "coverage",
)
# The user's own files on the user's own machine need no limit on bytes or time.
_NO_LIMIT = 2**40


@dataclass
class Tally:
    """How many images were answered, and how."""

    failed: int = 0
    abstained: int = 0
    undecided: int = 0

    def count(self, result: Result) -> None:
        """Counts one."""
        if isinstance(result, DropserveError):
            self.failed += 1
        elif result.decision is None:
            self.undecided += 1
        elif result.decision.abstains:
            self.abstained += 1


def run_predict(options: argparse.Namespace, stdin: TextIO, stdout: TextIO, stderr: TextIO) -> int:
    """Answers the images that the options name; returns the exit code.

    Results go to `stdout` or the file of --output, everything else to `stderr`.
    """
    try:
        inputs = find_inputs(options.files, stdin.buffer)
        with _open_output(options, stdout) as stream:
            tally = asyncio.run(_answer_all(options, inputs, stream, stderr))
            stream.flush()
    except (UsageError, SettingsError, RequestError) as error:
        stderr.write(f"dropserve: {error}\n")
        return EXIT_USAGE
    except DropserveError as error:
        stderr.write(f"dropserve: {error}\n")
        return EXIT_FAILED
    except BrokenPipeError:
        # Whoever read has seen enough; what is still buffered must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        stderr.write(f"dropserve: {error.strerror or error}\n")
        return EXIT_FAILED
    return _exit_code(tally, options, stderr)


async def _answer_all(
    options: argparse.Namespace, inputs: Sequence[Input], stream: TextIO, stderr: TextIO
) -> Tally:
    tally = Tally()
    parameters: Any = {name: getattr(options, name) for name in _PARAMETERS}
    async with _open_client(options, inputs) as client:
        labels: Sequence[str] = ()
        if client is not None and options.format is None:
            labels = (await client.model())["config"]["labels"]
        writer: Writer | None = None
        is_long = len(inputs) > _IMAGES_AT_A_TIME
        with tqdm(
            total=len(inputs), unit="image", file=stderr, disable=None if is_long else True
        ) as bar:
            for start in range(0, len(inputs), _IMAGES_AT_A_TIME):
                some = inputs[start : start + _IMAGES_AT_A_TIME]
                results = await _answer(client, some, parameters)
                # Not before: what is wrong with the request must not come after a header.
                writer = writer or _choose_writer(options, stream, labels, inputs)
                with bar.external_write_mode(file=stream):
                    for one, result in zip(some, results, strict=True):
                        writer.write(one.name, result)
                        tally.count(result)
                        if isinstance(result, DropserveError):
                            stderr.write(f"dropserve: {one.name}: {result}\n")
                bar.update(len(some))
    return tally


async def _answer(
    client: AsyncDropserveClient | None, inputs: Sequence[Input], parameters: Any
) -> list[Result]:
    images = [one.image for one in inputs if not isinstance(one.image, ImageError)]
    answers: list[Result] = []
    if client is not None and images:
        answers = await client.predict_mc_batch(images, **parameters)
    following = iter(answers)
    return [one.image if isinstance(one.image, ImageError) else next(following) for one in inputs]


def _open_client(
    options: argparse.Namespace, inputs: Sequence[Input]
) -> AbstractAsyncContextManager[AsyncDropserveClient | None]:
    """The client of the server, or of the network here; None where there is nothing to ask."""
    if all(isinstance(one.image, ImageError) for one in inputs):
        return nullcontext()
    if options.url is None:
        return _run_here(options)
    try:
        return AsyncDropserveClient(options.url, api_key=options.api_key)
    except ValueError as error:
        raise UsageError(str(error)) from error


@asynccontextmanager
async def _run_here(options: argparse.Namespace) -> AsyncIterator[AsyncDropserveClient]:
    """The server's application in this process, and a client of it: the same answers by making."""
    settings = load_settings(os.environ, {"checkpoint": options.checkpoint})
    # Torch is imported only now: a server is asked without it, and wrong usage answers at once.
    import torch

    from app.api.application import create_app
    from app.inference.repository import load_served_checkpoint
    from model.errors import ModelError

    torch.set_num_threads(1)  # as in a server
    here = Settings(
        **settings.model_dump(include={"device", "precision", "max_pixels", "max_passes"}),
        max_body_bytes=_NO_LIMIT,
        max_timeout_ms=_NO_LIMIT,
    )
    try:
        app = create_app(here, load_served_checkpoint(settings))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with AsyncDropserveClient(
                "http://localhost", timeout=httpx.Timeout(None), transport=transport
            ) as client:
                yield client
    except ModelError as error:
        raise UsageError(str(error)) from error


def _choose_writer(
    options: argparse.Namespace, stream: TextIO, labels: Sequence[str], inputs: Sequence[Input]
) -> Writer:
    if options.format == "json":
        return JsonLines(stream)
    if options.format == "csv":
        return Csv(stream)
    is_terminal = stream.isatty()
    wants_colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    terminal = Terminal(
        columns=shutil.get_terminal_size().columns if is_terminal else None,
        has_colour=is_terminal and wants_colour,
        has_unicode=_can_show(stream, "●○·…"),
    )
    if len(inputs) == 1:
        return Dots(stream, terminal, labels)
    return Table(stream, terminal, labels, [one.name for one in inputs])


def _open_output(options: argparse.Namespace, stdout: TextIO) -> AbstractContextManager[TextIO]:
    if options.output is not None:
        try:
            return open(options.output, "w", encoding="utf-8", newline="")  # noqa: PTH123
        except OSError as error:
            raise UsageError(f"{options.output} cannot be written: {error.strerror}") from error
    if isinstance(stdout, io.TextIOWrapper):
        if options.format is not None:
            stdout.reconfigure(encoding="utf-8", newline="")
        else:
            stdout.reconfigure(errors="replace")
    return nullcontext(stdout)


def _can_show(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _exit_code(tally: Tally, options: argparse.Namespace, stderr: TextIO) -> int:
    if options.fail_on_abstain and tally.undecided:
        stderr.write(
            "dropserve: this network has no limit for doubt and never abstains, so "
            "--fail-on-abstain cannot tell; choose another checkpoint, or leave it out\n"
        )
        return EXIT_USAGE
    if tally.failed:
        return EXIT_FAILED
    if options.fail_on_abstain and tally.abstained:
        return EXIT_ABSTAINED
    return EXIT_OK
