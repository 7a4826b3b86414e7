"""Scores blocks on this machine: one process, a thread per core.

The compiled loops of the engine run without the interpreter's lock. This thread reads and writes.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from app.scoring.pipeline import load_network, predict, prepare, read
from app.scoring.question import Question
from app.scoring.sources import Block

# Blocks that a thread has: one that it scores, one that it can begin at once.
_BLOCKS_A_THREAD = 2


def score_locally(
    question: Question, blocks: Iterable[Block], threads: int | None
) -> Generator[pa.RecordBatch, None, None]:
    """Scores blocks, in their order, on a thread per core or on as many as wanted.

    Raises:
        ModelError: the network cannot be used.
    """
    network = load_network(question)
    threads = threads or len(usable_cores()) or os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
    running: deque[Future[pa.RecordBatch]] = deque()
    try:
        for batch in read(blocks, question.column, question.spec):
            running.append(
                pool.submit(lambda each: predict(prepare(each, question), question, network), batch)
            )
            while running and (len(running) > threads * _BLOCKS_A_THREAD or running[0].done()):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def usable_cores() -> list[int]:
    """The cores that this process may use; empty where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
