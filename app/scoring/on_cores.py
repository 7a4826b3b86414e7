"""Scores chunks on the cores of this machine: one process a core, one thread a process."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from app.scoring.items import WorkerDiedError
from app.scoring.options import ScoreOptions
from app.scoring.parts import Part
from app.scoring.sources import Chunk

if TYPE_CHECKING:
    from app.scoring.scorer import Scorer

# Chunks a process has before it: one that it scores, one that it can begin at once.
_CHUNKS_AHEAD = 2


def score_on_cores(
    options: ScoreOptions, chunks: Iterable[Chunk], workers: int
) -> Generator[Part, None, None]:
    """Scores chunks, in any order.

    Args:
        options: what is asked.
        chunks: drawn from as processes get free.
        workers: processes; 1 is this one.

    Raises:
        ModelError: the network cannot be used.
        WorkerDiedError: a process was killed.
    """
    if workers == 1:
        with closing(load_scorer(options)) as scorer:
            yield from map(scorer.score, chunks)
        return
    context = multiprocessing.get_context("spawn")
    ended, end = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start, (options, ended))
    running: set[Future[Part]] = set()
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
        yield from (each.result() for each in as_completed(running))
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "a scoring process was killed, perhaps for want of memory; run the same command "
            "again to continue, with fewer --workers"
        ) from error
    finally:
        end.close()
        pool.shutdown(cancel_futures=True)


_options: ScoreOptions  # of a process that was started


def _start(options: ScoreOptions, ended: Connection) -> None:
    global _options
    _options = options
    threading.Thread(target=_end_with_command, args=(ended,), daemon=True).start()


def _end_with_command(ended: Connection) -> None:
    """Ends a process at once when the command is done, gives up or was killed.

    Nothing is lost but unfinished chunks, and nothing is unloaded.
    """
    ended.poll(None)
    os._exit(1)


def _score(chunk: Chunk) -> Part:
    return _scorer().score(chunk)


@functools.cache
def _scorer() -> "Scorer":
    """Made with the first chunk, so that an error on the way there is an answer like any other."""
    return load_scorer(_options)


def load_scorer(options: ScoreOptions) -> "Scorer":
    """Imports the engine, which the process of the command can do without, and loads the network.

    Raises:
        ModelError: the network cannot be used.
    """
    from app.scoring.scorer import Scorer

    return Scorer(options)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
