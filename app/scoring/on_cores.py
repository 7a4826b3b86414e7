"""Scores chunks on the cores of this machine: one process a core, one thread a process."""

import atexit
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.synchronize import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from app.scoring.options import ScoreOptions
from app.scoring.parts import Parts
from app.scoring.sources import Chunk

if TYPE_CHECKING:
    from app.scoring.scorer import Scorer

# Chunks a process has before it: one that it scores, one that it can begin at once.
_CHUNKS_AHEAD = 2


class Scored(NamedTuple):
    """A chunk whose part is on the disk."""

    rows: int
    failures: list[dict[str, Any]]


class WorkerDiedError(Exception):
    """A process ended by itself; the text is one line for the user."""


def score_on_cores(
    options: ScoreOptions, chunks: Iterable[Chunk], parts: Parts, workers: int
) -> Generator[Scored, None, None]:
    """Scores chunks and writes their parts, in any order.

    Args:
        options: what is asked.
        chunks: drawn from as processes get free.
        parts: where the parts go.
        workers: processes; 1 is this one.

    Raises:
        ModelError: the network cannot be used.
        OSError: a part cannot be written.
        WorkerDiedError: a process was killed.
    """
    if workers == 1:
        with closing(load_scorer(options)) as scorer:
            for chunk in chunks:
                yield _write_part(scorer, parts, chunk, lambda: False)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start, (options, parts, stop))
    running: set[Future[Scored]] = set()
    try:
        for chunk in chunks:
            # Ctrl-C reaches every process of the command, and only this one is to act on it: a
            # process that starts inherits the handler.
            previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                running.add(pool.submit(_score, chunk))
            finally:
                signal.signal(signal.SIGINT, previous)
            if len(running) == workers * _CHUNKS_AHEAD:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        for each in as_completed(running):
            yield each.result()
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "a scoring process was killed, perhaps for want of memory; run the same command "
            "again to continue, with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


# What a process was started with.
_started: tuple[ScoreOptions, Parts, Event]


def _start(options: ScoreOptions, parts: Parts, stop: Event) -> None:
    global _started
    _started = options, parts, stop
    # Unloading torch takes a second, for which the table would wait.
    atexit.register(os._exit, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next chunk for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _score(chunk: Chunk) -> Scored:
    _, parts, stop = _started
    return _write_part(_started_scorer(), parts, chunk, stop.is_set)


@functools.cache
def _started_scorer() -> "Scorer":
    """Made with the first chunk, so that an error on the way there is an answer like any other."""
    return load_scorer(_started[0])


def load_scorer(options: ScoreOptions) -> "Scorer":
    """Imports torch, which the process of the command can do without, and loads the network.

    Raises:
        ModelError: the network cannot be used.
    """
    from app.scoring.scorer import Scorer

    return Scorer(options)


def _write_part(
    scorer: "Scorer", parts: Parts, chunk: Chunk, should_stop: Callable[[], bool]
) -> Scored:
    part = scorer.score(chunk, should_stop)
    parts.write(chunk.number, part.content)
    return Scored(chunk.rows, part.failures)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))
