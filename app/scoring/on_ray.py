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
from collections.abc import Generator, Iterable
from contextlib import suppress
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
from app.scoring.readers import Reader
from app.scoring.sources import Block
from model.errors import ModelError

_OWN = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
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
        address: as `ray.init` takes it; `local` starts a Ray of this process's own.

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
            yield row["answers"]
    except RayError as error:
        raise ClusterError(f"Ray gave up ({_last_line(error)})") from error
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    head = urlsplit(address if "://" in address else f"//{address}")
    try:
        if head.hostname and head.port:
            # Ray itself would end this process, after half a minute, if there is no head.
            socket.create_connection((head.hostname, head.port), _CONNECTING_SECONDS).close()
        own = _OWN if address == "local" else {}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises it as it is
        raise UsageError(
            f"there is no Ray cluster at {address} ({_last_line(error)}); give --ray the address "
            "of its head, auto on one of its nodes, or local"
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
        missed += ray.is_initialized()
        with suppress(OSError):
            socket.create_connection((host, int(port)), _CONNECTING_SECONDS).close()
            missed = 0
    os.write(2, b"\ndropserve: the Ray cluster is gone; run the same command again to continue\n")
    os._exit(EXIT_FAILED)


class _Actor:
    """Scores blocks; loads the network with the first, so that an error then is an answer."""

    def __init__(self, question: Question, described: dict[str, Any]) -> None:
        self._question, self._described = question, described
        self._network: Any = None

    def __call__(self, row: dict[str, Block]) -> dict[str, Any]:
        """The answers to a block, or why this node has none."""
        from app.scoring import pipeline  # imports the engine, where it computes

        try:
            if not self._network:
                if (here := self._question.describe()) != self._described:
                    raise ModelError(
                        f"a node of the cluster has {here}, and the command {self._described}; "
                        "give every node the same Dropserve and checkpoint"
                    )
                self._network, self._files = pipeline.load_network(self._question), Reader()
        except ModelError as error:
            return {"answers": None, "refused": str(error)}
        batch = pipeline.read(row["block"], self._files)
        return {"answers": pipeline.answer(batch, self._network), "refused": ""}
