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
from collections.abc import Generator, Iterable, Iterator
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

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
from app.scoring.on_cores import Scored, WorkerDiedError, load_scorer  # noqa: E402
from app.scoring.options import ScoreOptions  # noqa: E402
from app.scoring.parts import Parts  # noqa: E402
from app.scoring.sources import Chunk  # noqa: E402
from model.errors import ModelError  # noqa: E402

# A Ray of this process's own, on this machine only.
LOCAL = "local"
_CONNECTING_SECONDS = 10.0


def score_on_ray(
    options: ScoreOptions,
    chunks: Iterable[Chunk],
    parts: Parts,
    actors: int | None,
    address: str,
    build: str,
) -> Generator[Scored, None, None]:
    """Scores chunks on a cluster and writes their parts here, in any order.

    Args:
        options: what is asked.
        chunks: gone through before the first is scored; a few bytes for each file that they name.
        parts: where the parts go, on this machine.
        actors: how many; None: one for each core, as the cluster has and gets them.
        address: as `ray.init` takes it, or `LOCAL`.
        build: versions of Dropserve and of the network, which every node must have.

    Raises:
        UsageError: there is no cluster at the address.
        ModelError: the network cannot be used, or a node has another build.
        OSError: a part cannot be written.
        WorkerDiedError: Ray gave up.
    """
    items = [{"chunk": chunk} for chunk in chunks]
    if not items:
        return
    _connect(address)
    try:
        for row in _scored_rows(items, options, actors, build):
            if row["refused"]:
                raise ModelError(row["refused"])
            parts.write(row["number"], row["content"])
            yield Scored(row["rows"], list(row["failures"]))
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise WorkerDiedError(
            f"Ray gave up ({reason}); run the same command again to continue"
        ) from error
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        head = urlsplit(address if "://" in address else f"//{address}")
        if head.hostname and head.port:
            # Ray itself would try for minutes to reach a head that is not there.
            socket.create_connection((head.hostname, head.port), _CONNECTING_SECONDS).close()
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


def _scored_rows(
    items: list[dict[str, Chunk]], options: ScoreOptions, actors: int | None, build: str
) -> Iterator[dict[str, Any]]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours is shown
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores = int(ray.cluster_resources().get("CPU", 1))
    pool = (
        ray.data.ActorPoolStrategy(size=actors)
        if actors
        else ray.data.ActorPoolStrategy(min_size=1, initial_size=min(cores, len(items)))
    )
    scored = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _Actor, fn_constructor_args=(options, build), compute=pool, num_cpus=1
    )
    rows: Iterator[dict[str, Any]] = scored.iter_rows()
    return rows


class _Actor:
    """Scores chunks; loads the network with the first, so that an error then is an answer."""

    def __init__(self, options: ScoreOptions, build: str) -> None:
        self._options = options
        self._build = build
        self._scorer: Any = None

    def __call__(self, row: dict[str, Chunk]) -> dict[str, Any]:
        """The part of the chunk, or why this node cannot make it."""
        chunk = row["chunk"]
        try:
            if self._scorer is None:
                self._scorer = load_scorer(self._options)
            here = f"Dropserve {version('dropserve')} with the network {self._scorer.version}"
            if here != self._build:
                raise ModelError(
                    f"a node of the cluster has {here}, and here is {self._build}; give every "
                    "node the same Dropserve and checkpoint"
                )
            content, failures = self._scorer.score(chunk)
            refused = ""
        except ModelError as error:
            content, failures, refused = b"", [], str(error)
        return {
            "number": chunk.number,
            "rows": chunk.rows,
            "content": content,
            "failures": failures,
            "refused": refused,
        }
