"""Scores chunks on a Ray cluster, through Ray Data: an actor a core, one thread an actor.

Ray Data takes chunks to actors as these get free, keeps what is under way within the memory of its
object store, and does a lost node's chunks again elsewhere. The parts come back here and are
written here, so that a run goes on where it stopped as one on cores does. Every node needs the
same input under the same paths, and Dropserve with the same network.
"""

import logging
import os
import signal
import socket
from collections.abc import Generator, Iterable
from importlib.metadata import version
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

# Before Ray is imported, which reads them then: it reports the run to nobody, and its own log,
# which is in its folder, does not come between the lines of progress.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
_previous = signal.getsignal(signal.SIGTERM)
import ray  # noqa: E402
import ray.data  # noqa: E402
from ray.exceptions import RayError  # noqa: E402

signal.signal(signal.SIGTERM, _previous)  # importing Ray sets its own

from app.errors import UsageError  # noqa: E402
from app.scoring.on_cores import Scored, WorkerDiedError  # noqa: E402
from app.scoring.parts import Parts  # noqa: E402
from app.scoring.question import Question  # noqa: E402
from app.scoring.sources import Chunk  # noqa: E402
from model.errors import ModelError  # noqa: E402

# A Ray of this process's own, on this machine only.
LOCAL = "local"
_LOOPBACK = "127.0.0.1"
_CONNECTING_SECONDS = 10.0


class Build(NamedTuple):
    """What must be the same wherever rows of one table are made."""

    dropserve: str  # its version
    model: str  # the network's version


class OtherBuildError(ModelError):
    """A node has another Dropserve, or another network."""


def score_on_ray(
    question: Question,
    chunks: Iterable[Chunk],
    parts: Parts,
    workers: int | None,
    *,
    address: str,
    build: Build,
) -> Generator[Scored, None, None]:
    """Scores chunks on a cluster and writes their parts here, in any order.

    Args:
        question: what is asked.
        chunks: gone through before the first is scored; a few bytes for each file that they name.
        parts: where the parts go, on this machine.
        workers: actors; None: one for each core, as the cluster has and gets them.
        address: as `ray.init` takes it, or `LOCAL`.
        build: what the nodes must have.

    Raises:
        UsageError: there is no cluster at the address.
        ModelError: the network cannot be used, or a node has another one.
        OSError: a part cannot be written.
        WorkerDiedError: Ray gave up.
    """
    items = [{"chunk": chunk} for chunk in chunks]
    if not items:
        return
    _connect(address)
    try:
        yield from _stream(items, question, parts, workers, build)
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise WorkerDiedError(
            f"Ray gave up ({reason}); run the same command again to continue"
        ) from error
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": _LOOPBACK}
    try:
        _require_listener(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == LOCAL else {}),
        )
    except (OSError, RayError, ValueError) as error:
        raise UsageError(
            f"there is no Ray cluster at {address}; give --ray the address of its head, "
            f"auto on one of its nodes, or {LOCAL}"
        ) from error


def _require_listener(address: str) -> None:
    """Ray itself would try for minutes to reach a head that is not there.

    Raises:
        OSError: nobody listens at the host and port of the address, if it has them.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), _CONNECTING_SECONDS).close()


def _stream(
    items: list[dict[str, Chunk]],
    question: Question,
    parts: Parts,
    workers: int | None,
    build: Build,
) -> Generator[Scored, None, None]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours is shown
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores = int(ray.cluster_resources().get("CPU", 1))
    pool = (
        ray.data.ActorPoolStrategy(size=workers)
        if workers
        else ray.data.ActorPoolStrategy(min_size=1, initial_size=min(cores, len(items)))
    )
    scored = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Actor,
        fn_constructor_args=(question, build),
        batch_size=1,
        compute=pool,
        num_cpus=1,
    )
    for row in scored.iter_rows():
        if row["refused"]:
            raise OtherBuildError(row["refused"])
        parts.write(row["number"], row["content"])
        yield Scored(row["rows"], list(row["failures"]))


class _Actor:
    """Scores chunks; loads the network with the first, so that an error then is an answer."""

    def __init__(self, question: Question, build: Build) -> None:
        self._question = question
        self._build = build
        self._scorer: Any = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The part of the one chunk in the batch, as a row."""
        (chunk,) = batch["chunk"]
        row: dict[str, Any] = {"number": chunk.number, "rows": chunk.rows, "refused": ""}
        try:
            part = self._load().score(chunk)
            row |= {"content": part.content, "failures": part.failures}
        except ModelError as error:
            row |= {"content": b"", "failures": [], "refused": str(error)}
        return {name: _one(value) for name, value in row.items()}

    def _load(self) -> Any:
        if self._scorer is None:
            # Torch is imported only where it computes.
            from app.inference.served_checkpoint import load_served_checkpoint
            from app.scoring.scorer import Scorer

            settings = self._question.settings
            here = Build(version("dropserve"), load_served_checkpoint(settings).version)
            if here != self._build:
                raise OtherBuildError(
                    f"a node of the cluster has {here}, and here is {self._build}; give every "
                    "node the same Dropserve and checkpoint"
                )
            self._scorer = Scorer(self._question)
        return self._scorer


def _one(value: object) -> Any:
    column = np.empty(1, object)
    column[0] = value
    return column
