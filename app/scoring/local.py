"""Scores blocks on this machine: one process, a thread per core.

The compiled loops of the engine run without the interpreter's lock. This thread reads and writes.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa

from app.scoring.pipeline import answer, load_network, read
from app.scoring.question import Question
from app.scoring.readers import Reader
from app.scoring.sources import Block


def score_locally(
    question: Question, blocks: Iterable[Block], threads: int | None
) -> Generator[pa.RecordBatch, None, None]:
    """Scores blocks, in their order, on a thread per core or on as many as wanted.

    Raises:
        ModelError: the network cannot be used.
    """
    network, files = load_network(question), Reader()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = threads or cores or 1
    pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
    running: deque[Future[pa.RecordBatch]] = deque()
    try:
        for block in blocks:
            running.append(pool.submit(answer, read(block, files), network))
            # A thread has one that it scores, and one that it can begin at once.
            while running and (len(running) > 2 * threads or running[0].done()):
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        files.close()
        pool.shutdown(cancel_futures=True)
