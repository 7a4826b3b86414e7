"""Scores chunks on a Ray cluster, through Ray Data: an actor a core, one thread an actor.

Ray Data takes chunks to actors as these get free, keeps what is under way within the memory of its
object store, and does a lost node's chunks again elsewhere. Every node needs the same input under
the same paths, and Dropserve with the same network.
"""

import json
import logging
import os
import signal
import socket
from collections.abc import Generator, Iterable
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
from app.scoring.items import WorkerDiedError  # noqa: E402
from app.scoring.options import ScoreOptions  # noqa: E402
from app.scoring.parts import Part  # noqa: E402
from app.scoring.sources import Chunk  # noqa: E402
from model.errors import ModelError  # noqa: E402

# A Ray of this process's own, on this machine only.
LOCAL = "local"
_CONNECTING_SECONDS = 10.0


def score_on_ray(
    options: ScoreOptions, chunks: Iterable[Chunk], actors: int | None, address: str, build: str
) -> Generator[Part, None, None]:
    """Scores chunks on a cluster, in any order.

    Args:
        options: what is asked.
        chunks: gone through before the first is scored; a few bytes for each file that they name.
        actors: how many; None: one for each core, as the cluster has and gets them.
        address: as `ray.init` takes it, or `LOCAL`.
        build: versions of Dropserve and of the network, which every node must have.

    Raises:
        UsageError: there is no cluster at the address.
        ModelError: the network cannot be used, or a node has another build.
        WorkerDiedError: Ray gave up.
    """
    items = [{"chunk": chunk} for chunk in chunks]
    if not items:
        return
    _connect(address)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # ours is shown
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        most = min(int(ray.cluster_resources().get("CPU", 1)), len(items))
        pool = {"size": actors} if actors else {"min_size": 1, "initial_size": most}
        scored = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _Actor,
            fn_constructor_args=(options, build),
            compute=ray.data.ActorPoolStrategy(**pool),
            num_cpus=1,
        )
        for row in scored.iter_rows():
            refused, failures = row.pop("refused"), json.loads(row.pop("failures"))
            if refused:
                raise ModelError(refused)
            yield Part(**row, failures=failures)
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


class _Actor:
    """Scores chunks; loads the network with the first, so that an error then is an answer."""

    def __init__(self, options: ScoreOptions, build: str) -> None:
        self._options = options
        self._build = build
        self._scorer: Any = None

    def __call__(self, row: dict[str, Chunk]) -> dict[str, Any]:
        """The part of the chunk, or why this node cannot make it."""
        part, refused = Part(row["chunk"].number, row["chunk"].rows, b"", []), ""
        try:
            part = self._load().score(row["chunk"])
        except ModelError as error:
            refused = str(error)
        return {**part._asdict(), "failures": json.dumps(part.failures), "refused": refused}

    def _load(self) -> Any:
        if self._scorer is None:
            from app.scoring.scorer import Scorer  # imported only where it computes

            scorer = Scorer(self._options)
            here = f"Dropserve {version('dropserve')} with the network {scorer.version}"
            if here != self._build:
                raise ModelError(
                    f"a node of the cluster has {here}, and here is {self._build}; give every "
                    "node the same Dropserve and checkpoint"
                )
            self._scorer = scorer
        return self._scorer
