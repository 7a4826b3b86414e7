"""The network that is served, and how another one takes its place without downtime."""

import asyncio
import gc
import logging
import math
from typing import get_args

import numpy as np

from app.errors import ErrorCode
from app.inference.encoding import encode_json
from app.inference.pipeline import Predictor
from app.inference.review import ReviewFolder
from app.inference.served_checkpoint import load_served_checkpoint
from app.settings import Settings
from app.telemetry.metrics import Metrics
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint
from model.errors import CheckpointError, ModelError
from model.literals import Mode
from model.uncertainty.calibration import read_entropy_shares

# For requests that are still computed when their connections are gone.
_CLOSING_SECONDS = 1.0

logger = logging.getLogger("dropserve")


def load_predictor(
    settings: Settings,
    metrics: Metrics | None = None,
    checkpoint: Checkpoint | None = None,
    review: ReviewFolder | None = None,
) -> Predictor:
    """A predictor that is warm, and whose answers can be sent.

    Args:
        settings: how it predicts.
        metrics: count what it does, if not None.
        checkpoint: the network; the one that the settings name, if none is given.
        review: keeps pictures for a person, if not None.

    Raises:
        CheckpointError: see `load_served_checkpoint`, or an answer is not finite.
    """
    checkpoint = checkpoint or load_served_checkpoint(settings)
    predictor = Predictor(checkpoint, settings, metrics, review)
    with np.errstate(all="ignore"):
        answers = predictor.warm_up()
    for answer in answers:
        if not math.isfinite(answer.confidence):
            path = settings.checkpoint or DEFAULT_CHECKPOINT
            raise CheckpointError(f"the checkpoint {path} gives answers that are not finite")
        encode_json(answer)
    return predictor


class ModelRepository:
    """Holds the predictor of the checkpoint that is served.

    Args:
        settings: name the checkpoint, and the folder for review.
        metrics: count what is served, if not None.

    Raises:
        SettingsError: see `ReviewFolder`.
    """

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._predictor: Predictor | None = None
        self._reloading = asyncio.Lock()
        self._review = ReviewFolder.of(settings)

    @property
    def predictor(self) -> Predictor:
        """What answers now.

        Raises:
            ApiError: not_ready, nothing is loaded yet, or any more.
        """
        if self._predictor is None:
            raise ErrorCode.NOT_READY()
        return self._predictor

    @property
    def is_ready(self) -> bool:
        """Whether there is a predictor."""
        return self._predictor is not None

    def load(self, checkpoint: Checkpoint | None = None) -> None:
        """Serves a checkpoint, or the one that the settings name; fails as `load_predictor`."""
        self._serve(load_predictor(self._settings, self._metrics, checkpoint, self._review))

    async def reload(self) -> None:
        """Serves the checkpoint as its file is now, once that is checked and warm.

        Requests that have begun keep the network they began with, so none fails. A file that cannot
        be served changes nothing, and the log says why.
        """
        async with self._reloading:  # one after the other: the last one that was asked for stays
            try:
                predictor = await asyncio.to_thread(
                    load_predictor, self._settings, self._metrics, None, self._review
                )
            except ModelError as error:
                logger.error("the checkpoint is not reloaded, the old one serves on: %s", error)
                return
            old = self.predictor
            self._serve(predictor)
            logger.info("reloaded: %s %s", predictor.checkpoint.name, predictor.checkpoint.version)
        # No request is answered later than this.
        await asyncio.sleep(self._settings.max_timeout_ms / 1000)
        await old.close(_CLOSING_SECONDS)
        del old
        gc.collect()  # a predictor and its scheduler refer to each other

    async def close(self) -> None:
        """Serves nothing more; finishes what is queued."""
        predictor, self._predictor = self.predictor, None
        await predictor.close(_CLOSING_SECONDS)
        if self._review is not None:
            self._review.close()

    def _serve(self, predictor: Predictor) -> None:
        self._predictor = predictor
        if self._metrics is not None:
            checkpoint = predictor.checkpoint
            shares = {
                mode: shares
                for mode in get_args(Mode)
                if (shares := read_entropy_shares(checkpoint.calibration, mode)) is not None
            }
            most_queued = predictor.scheduler.most_queued
            self._metrics.serve_model(checkpoint.name, checkpoint.version, most_queued, shares)
