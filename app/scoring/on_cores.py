"""Scores chunks on the cores of this machine: one process a core, one thread a process."""

import atexit
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

from app.scoring.parts import Parts
from app.scoring.question import Question
from app.scoring.sources import Chunk

# Chunks a process has before it: one that it scores, one that it can begin at once.
_CHUNKS_AHEAD = 2


class Scored(NamedTuple):
    """A chunk whose part is on the disk."""

    rows: int
    failures: list[dict[str, Any]]


class WorkerDiedError(Exception):
    """A process ended by itself; the text is one line for the user."""


def score_on_cores(
    question: Question, chunks: Iterable[Chunk], parts: Parts, workers: int
) -> Generator[Scored, None, None]:
    """Scores chunks and writes their parts, in any order.

    Args:
        question: what is asked.
        chunks: drawn from as processes get free.
        parts: where the parts go.
        workers: processes; 1 is this one.

    Raises:
        ModelError: the network cannot be used.
        OSError: a part cannot be written.
        WorkerDiedError: a process was killed.
    """
    if workers == 1:
        worker = _Worker(question, parts)
        try:
            for chunk in chunks:
                yield worker.score(chunk)
        finally:
            worker.close()
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start, (question, parts, stop))
    try:
        yield from _distribute(pool, chunks, workers * _CHUNKS_AHEAD)
    except BrokenProcessPool as error:
        raise WorkerDiedError(
            "a scoring process was killed, perhaps for want of memory; run the same command "
            "again to continue, with fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _distribute(
    pool: ProcessPoolExecutor, chunks: Iterable[Chunk], most: int
) -> Generator[Scored, None, None]:
    running: set[Future[Scored]] = set()
    for chunk in chunks:
        with _shielded_from_interrupts():  # a process that starts inherits it
            running.add(pool.submit(_score, chunk))
        if len(running) >= most:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (each.result() for each in done)


@contextmanager
def _shielded_from_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of the command, and only the first one is to act on it."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


class _Worker:
    """Scores chunks and writes their parts; loads the network with the first."""

    def __init__(self, question: Question, parts: Parts, stop: Event | None = None) -> None:
        # Torch is imported only where it computes.
        from app.scoring.scorer import Scorer

        self._scorer = Scorer(question)
        self._parts = parts
        self._stop = stop

    def score(self, chunk: Chunk) -> Scored:
        """Scores and writes one chunk."""
        part = self._scorer.score(chunk, self._stop.is_set if self._stop else lambda: False)
        self._parts.write(chunk.number, part.content)
        return Scored(chunk.rows, part.failures)

    def close(self) -> None:
        """Closes the file that is open."""
        self._scorer.close()


# What a process was started with, and its worker once it has had a chunk: an error on the way
# there is then an answer like any other.
_started: tuple[Question, Parts, Event]
_worker: _Worker | None = None


def _start(question: Question, parts: Parts, stop: Event) -> None:
    global _started
    _started = question, parts, stop
    # Unloading torch takes a second, for which the table would wait.
    atexit.register(os._exit, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _score(chunk: Chunk) -> Scored:
    global _worker
    if _worker is None:
        _worker = _Worker(*_started)
    return _worker.score(chunk)


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for its next chunk for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    return sorted(os.sched_getaffinity(0))
