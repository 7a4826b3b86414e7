"""`dropserve bench http`: requests a second and latencies, and the price of doubt over HTTP.

Three targets: `constant`, a FastAPI handler in the same app that reads the body and answers always
the same, which is what FastAPI and uvicorn leave to a prediction; `predict`; and `mc`. Every round
measures all of them one after the other under each load, so that a slow moment of a shared machine
hits all alike. Figures are medians of the rounds; ratios are medians of the rounds' own ratios.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import product
from pathlib import Path
from typing import NoReturn

import httpx
import uvloop
from tqdm import tqdm

from app.api.examples import example_pngs
from app.bench_report import Conditions, Load, Row, find_limits, summarise, to_document, to_text
from app.bench_servers import ServerError, set_constant, start_bench_app
from app.cli.machine import describe_machine
from app.client.bearer import bearer
from app.load_client import LoadClientError, Target, post, run_closed_loop, run_open_loop
from app.scoring.on_cores import usable_cores

# Before the first measurement of a target, uncounted: connections, caches, first times.
_WARM_UP_SECONDS, _WARM_UP_CONNECTIONS = 0.5, 16
_TICK_SECONDS = 0.5
# Statuses of a server that is there, but busy.
_BUSY = (429, 503, 504)


class BenchError(Exception):
    """Nothing could be measured; the text is one line for the user."""


class BenchUsageError(BenchError):
    """What was asked for makes no sense."""


def run_http_bench(
    *,
    url: str | None,
    targets: Sequence[str] | None,
    connections: Sequence[int] | None,
    rates: Sequence[float],
    seconds: float,
    rounds: int,
    passes: int,
    image: Path | None,
    api_key: str | None,
    as_json: bool,
) -> bool:
    """Measures and prints.

    Args:
        url: the server; None starts one.
        targets: of `constant`, `predict` and `mc`; None: all, or with a `url` the last two.
        connections: of the closed loops; None: 1, 16 and 64, or with `rates` no closed loop.
        rates: of the open loops, requests a second.
        seconds: of one measurement.
        rounds: repetitions.
        passes: of `mc`.
        image: what is sent; None: drawn digits in turn, 28x28, as PNG.
        api_key: for a server that wants one.
        as_json: print one JSON document instead of a table.

    Returns:
        Whether every measurement had successes.

    Raises:
        BenchUsageError: the address is none, or `constant` is to be measured at it.
        BenchError: the server cannot be measured.
    """
    bodies, content_type = _read_images(image)
    if url:
        _check_address(url, targets or (), api_key)
    if targets is None:
        targets = ("predict", "mc") if url else ("constant", "predict", "mc")
    if connections is None:
        connections = () if rates else (1, 16, 64)
    loads = [Load(connections=count) for count in connections] + [Load(rate=rate) for rate in rates]
    rows = [Row(name, load, []) for load, name in product(loads, dict.fromkeys(targets))]
    cores = usable_cores()
    # As far apart as can be: neighbours may be two threads of one core.
    server_core, own_core = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)

    with ExitStack() as stack:
        stack.enter_context(_exit_on_sigterm())
        try:
            urls = stack.enter_context(
                _start_targets(url, targets, passes, bodies[0], content_type, api_key, server_core)
            )
            requests = {name: post(urls[name], bodies, content_type, api_key) for name in targets}
        except ServerError as error:
            raise BenchError(str(error)) from error
        if own_core is not None:
            stack.callback(os.sched_setaffinity, 0, cores)
            os.sched_setaffinity(0, {own_core})
        uvloop.run(_measure(rows, requests, seconds, rounds, has_own_core=own_core is not None))

    conditions = Conditions(
        machine=describe_machine(),
        server_core=None if url else server_core,
        generator_core=own_core,
        is_own_server=url is None,
        image_bytes=tuple(map(len, bodies)),
        passes=passes,
        seconds=seconds,
        rounds=rounds,
    )
    print(
        json.dumps(to_document(conditions, rows), indent=2)
        if as_json
        else to_text(conditions, rows)
    )
    for limit in find_limits(rows):
        print(f"warning: {limit}", file=sys.stderr)
    return all(one.p50_ms is not None for row in rows for one in row.rounds)


@contextmanager
def _start_targets(
    url: str | None,
    targets: Sequence[str],
    passes: int,
    body: bytes,
    content_type: str,
    api_key: str | None,
    core: int | None,
) -> Iterator[dict[str, str]]:
    """The targets' addresses, each of which has answered, until the block ends.

    Raises:
        BenchError: nobody answers, or not to such a request.
        ServerError: a server of our own did not start.
    """
    with nullcontext(url.rstrip("/")) if url else start_bench_app(core) as base:
        urls = {
            "constant": f"{base}/constant",
            "predict": f"{base}/predict",
            "mc": f"{base}/predict/mc?passes={passes}",
        }
        answer = _ask(urls["predict"], body, content_type, api_key)
        _ask(urls["mc"], body, content_type, api_key)
        if "constant" in targets:
            set_constant(base, answer)
        yield urls


async def _measure(
    rows: Sequence[Row],
    requests: Mapping[str, Target],
    seconds: float,
    rounds: int,
    *,
    has_own_core: bool,
) -> None:
    """Fills the rows' rounds."""
    for target in requests.values():
        await run_closed_loop(target, _WARM_UP_CONNECTIONS, _WARM_UP_SECONDS)
    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    total = rounds * len(rows) * seconds
    with tqdm(total=total, file=sys.stderr, bar_format=layout) as bar:
        for number, row in product(range(rounds), rows):
            bar.set_description(f"round {number + 1} of {rounds}, {row.target}, {row.load}")
            ticking = asyncio.create_task(_tick(bar, seconds))
            target, load = requests[row.target], row.load
            if load.rate is not None:
                measurement = await run_open_loop(
                    target, load.rate, seconds, has_own_core=has_own_core
                )
            else:
                measurement = await run_closed_loop(target, load.connections or 1, seconds)
            await ticking
            row.rounds.append(summarise(measurement))


async def _tick(bar: "tqdm[NoReturn]", seconds: float) -> None:
    """Moves the bar while a measurement runs."""
    left = seconds
    while left > 0:
        step = min(_TICK_SECONDS, left)
        await asyncio.sleep(step)
        bar.update(step)
        left -= step


def _check_address(url: str, targets: Sequence[str], api_key: str | None) -> None:
    try:
        post(url, (), "", api_key)
    except LoadClientError as error:
        raise BenchUsageError(str(error)) from error
    if "constant" in targets:
        raise BenchUsageError("constant is a server of the bench's own; leave it out, or --url")


def _read_images(path: Path | None) -> tuple[list[bytes], str]:
    """The bodies, and their content type: of a file the bytes decide."""
    if path is None:
        return example_pngs(), "image/png"
    try:
        return [path.read_bytes()], "application/octet-stream"
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror}") from error


def _ask(url: str, body: bytes, content_type: str, api_key: str | None) -> bytes:
    """One answer, which shows that somebody is there and takes such a request."""
    headers = {"content-type": content_type}
    if api_key:
        headers["authorization"] = bearer(api_key)
    try:
        # Not through a proxy that the environment may name.
        response = httpx.post(url, content=body, headers=headers, trust_env=False, timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise BenchError(f"{url} does not answer: {str(error) or type(error).__name__}") from error
    if response.is_success or response.status_code in _BUSY:
        return response.content
    message = ""
    with suppress(ValueError, LookupError, TypeError):
        message = f": {response.json()['error']['message']}"
    raise BenchError(f"{url} answers {response.status_code}{message}")


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """So that the servers end with this process then, too."""
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)
