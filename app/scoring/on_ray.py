"""Scores blocks on a Ray cluster, through Ray Data: an actor a core, one thread an actor.

Ray Data takes blocks to actors as these get free, keeps what is under way within the memory of its
object store, and does a lost node's blocks again elsewhere. Every node needs the same input under
the same paths, and Dropserve with the same network; answers come back to this process.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

# Before Ray is imported, which reads them then: it reports the run to nobody, and its own log,
# which is in its folder, does not come between the lines of progress.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
import ray
import ray.data
from ray.exceptions import RayError

from app.errors import EXIT_FAILED, UsageError
from app.scoring.question import ClusterError, Question
from app.scoring.sources import Block
from model.errors import ModelError

_LOCAL = "local"  # a Ray of this process's own, on this machine only
_CONNECTING_SECONDS = 10.0
_SECONDS_BETWEEN_CHECKS, _MISSED_CHECKS = 2.0, 5
_MOST_TASKS = 10_000  # each is kept track of


def score_on_ray(
    question: Question, blocks: Iterable[Block], actors: int | None, address: str
) -> Generator[pa.RecordBatch, None, None]:
    """Scores blocks, in any order, after having gone through them.

    Args:
        question: what is asked.
        blocks: a few bytes for each file that they name.
        actors: how many, at most and by default one for each core of the cluster.
        address: as `ray.init` takes it, or `local`.

    Raises:
        UsageError: there is no cluster at the address.
        ModelError: the network cannot be used, or a node has another.
        ClusterError: Ray gave up.
    """
    items = [{"block": block} for block in blocks]
    if not items:
        return
    _connect(address)
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False  # ours is shown
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        tasks = min(len(items), _MOST_TASKS)
        cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        scored = ray.data.from_items(items, override_num_blocks=tasks).map(
            _Actor,
            fn_constructor_args=(question, question.describe()),
            compute=ray.data.ActorPoolStrategy(size=min(actors or cores, cores, tasks)),
            # An actor that was killed, alone or with its node, gets its blocks back when it starts
            # again, and without a free core it never would: half of the cluster may be lost.
            num_cpus=0.5,
        )
        for row in scored.iter_rows():
            if row["refused"]:
                raise ModelError(row["refused"])
            yield from pa.ipc.open_stream(row["answers"])
    except RayError as error:
        raise ClusterError(f"Ray gave up ({_last_line(error)})") from error
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    own = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == _LOCAL else {}
    try:
        head = urlsplit(address if "://" in address else f"//{address}")
        if head.hostname and head.port:
            # Ray itself would try for minutes to reach a head that is not there.
            socket.create_connection((head.hostname, head.port), _CONNECTING_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises it as it is
        if address == _LOCAL:
            raise ClusterError(f"Ray did not start ({_last_line(error)})") from error
        raise UsageError(
            f"there is no Ray cluster at {address}; give --ray the address of its head, "
            f"auto on one of its nodes, or {_LOCAL}"
        ) from error
    threading.Thread(target=_watch_head, daemon=True).start()


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]


def _watch_head() -> None:
    """Ends this process once the head is gone: Ray would do so a minute later, without a word."""
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    missed = 0
    while missed < _MISSED_CHECKS:
        time.sleep(_SECONDS_BETWEEN_CHECKS)
        try:
            socket.create_connection((host, int(port)), _CONNECTING_SECONDS).close()
            missed = 0
        except OSError:
            missed += ray.is_initialized()
    os.write(2, b"\ndropserve: the Ray cluster is gone; run the same command again to continue\n")
    os._exit(EXIT_FAILED)


class _Actor:
    """Scores blocks; loads the network with the first, so that an error then is an answer."""

    def __init__(self, question: Question, described: dict[str, Any]) -> None:
        self._question, self._described = question, described
        self._asked: list[Block] = []
        self._scored: Iterator[pa.RecordBatch] | None = None

    def __call__(self, row: dict[str, Block]) -> dict[str, Any]:
        """The answers to a block, or why this node has none."""
        self._asked.append(row["block"])
        try:
            self._scored = self._scored or self._score()
            answers = [next(self._scored)]
            while sum(batch.num_rows for batch in answers) < row["block"].rows:
                answers.append(next(self._scored))
        except (ModelError, UsageError) as error:
            self._scored = None
            return {"answers": b"", "refused": str(error)}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, answers[0].schema) as writer:
            for batch in answers:
                writer.write_batch(batch)
        return {"answers": sink.getvalue().to_pybytes(), "refused": ""}

    def _score(self) -> Iterator[pa.RecordBatch]:
        """Draws each block as it is asked for, so that a file stays open for the next."""
        from app.scoring import pipeline  # imports the engine, where it computes

        here, question = self._question.describe(), self._question
        if here != self._described:
            raise ModelError(
                f"a node of the cluster has {here}, and the command {self._described}; give every "
                "node the same Dropserve and checkpoint"
            )
        network = pipeline.load_network(question)
        for batch in pipeline.read(iter(self._asked.pop, None), question.column, question.spec):
            yield pipeline.predict(pipeline.prepare(batch, question), question, network)
