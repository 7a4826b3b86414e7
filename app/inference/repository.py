"""The networks that are served, and how others take their places without downtime."""

import asyncio
import gc
import logging
import math
import weakref
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import get_args

import numpy as np

from app.errors import ErrorCode
from app.inference.catalogue import FIRST_VERSION, Catalogue, ModelFile, find_models, newest
from app.inference.encoding import encode_json
from app.inference.memory import require_room
from app.inference.pipeline import Predictor
from app.inference.reading import PictureReader
from app.inference.resources import Resources
from app.inference.review import ReviewFolder
from app.inference.served_checkpoint import load_servable
from app.settings import Settings
from app.telemetry.metrics import Metrics
from app.telemetry.model_counts import EntropyShares
from model.checkpoint import DEFAULT_CHECKPOINT, AnyCheckpoint
from model.errors import CheckpointError, ModelError
from model.literals import Mode
from model.uncertainty.calibration import read_entropy_shares

# For requests that are still computed when their connections are gone.
_CLOSING_SECONDS = 1.0

logger = logging.getLogger("dropserve")

Loaded = Mapping[ModelFile, AnyCheckpoint]


def load_models(settings: Settings, files: Collection[ModelFile]) -> Loaded:
    """The checkpoints of files, each checked: it can be served, and its answers can be sent.

    Raises:
        ModelError: one of them cannot.
    """
    return {
        file: load_predictor(settings, file, workers=settings.workers).checkpoint for file in files
    }


def load_predictor(
    settings: Settings,
    file: ModelFile,
    checkpoint: AnyCheckpoint | None = None,
    metrics: Metrics | None = None,
    resources: Resources | None = None,
    review: ReviewFolder | None = None,
    workers: int = 1,
) -> Predictor:
    """A predictor that is warm, and whose answers can be sent.

    Args:
        settings: how it predicts.
        file: of the network.
        checkpoint: the network, if it is read already.
        metrics: count what it does, if not None.
        resources: what it shares with others.
        review: keeps pictures for a person, if not None.
        workers: processes that load it.

    Raises:
        CheckpointError: see `load_servable`; there is no room for it, or an answer is not finite.
    """
    if checkpoint is None:
        require_room(file.path, workers)
        checkpoint = load_servable(file.path)
    predictor = Predictor(
        checkpoint, settings, metrics, name=file.name, resources=resources, review=review
    )
    with np.errstate(all="ignore"):
        answers = predictor.warm_up()
    for answer in answers:
        if not math.isfinite(answer.confidence):
            raise CheckpointError(f"the checkpoint {file.path} gives answers that are not finite")
        encode_json(answer)
    return predictor


class ModelRepository:
    """Holds the predictors of the networks that are served, by name and version.

    Args:
        settings: name the networks and the folder for review, and say how they predict.
        metrics: count what is served, if not None.
        find: names what is served; the settings do, if None.

    Attributes:
        catalogue: what is served.

    Raises:
        SettingsError: see `ReviewFolder`.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics | None = None,
        find: Callable[[], Catalogue] | None = None,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._find = find or partial(find_models, settings)
        self._follows = find is not None
        self._resources = Resources(settings, PictureReader(settings), metrics)
        self._review = ReviewFolder.of(settings)
        self._files: dict[ModelFile, Predictor] = {}
        self._models: dict[str, dict[str, Predictor]] = {}
        self._default: Predictor | None = None
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.catalogue = Catalogue("", ())

    @property
    def predictor(self) -> Predictor:
        """What answers now where no model is named.

        Raises:
            ApiError: not_ready, nothing is loaded yet, or any more.
        """
        if self._default is None:
            raise ErrorCode.NOT_READY()
        return self._default

    @property
    def is_ready(self) -> bool:
        """Whether there is a predictor."""
        return self._default is not None

    def find(self, model: str | None, version: str | None = None) -> Predictor:
        """What answers now; without a version, the newest.

        Args:
            model: its name; None: the default.
            version: its number in the folder, or the network's, which answers have.

        Raises:
            ApiError: not_ready; not_found, there is no such model or version.
        """
        default = self.predictor
        if model is None:
            return default
        versions = self._models.get(model)
        if versions is None:
            raise ErrorCode.NOT_FOUND(
                f"there is no such model; the models are {', '.join(self._models)}"
            )
        if version is None:
            return versions[newest(versions)]
        if version in versions:
            return versions[version]
        for predictor in versions.values():
            if predictor.checkpoint.version == version:
                return predictor
        raise ErrorCode.NOT_FOUND(
            f"there is no such version; the versions of {model} are {', '.join(versions)}"
        )

    @property
    def models(self) -> Mapping[str, Mapping[str, Predictor]]:
        """Every predictor by name and version, the default's first."""
        return self._models

    def load(self, checkpoint: AnyCheckpoint | None = None, loaded: Loaded | None = None) -> None:
        """Serves what there is.

        Args:
            checkpoint: to be served alone.
            loaded: checkpoints that are read already.

        Raises:
            ModelError: one of the networks cannot be served.
        """
        if checkpoint is not None:
            path = self._settings.checkpoint or DEFAULT_CHECKPOINT
            file = ModelFile(checkpoint.name, FIRST_VERSION, path)
            catalogue, loaded = Catalogue(file.name, (file,)), {file: checkpoint}
        elif loaded:
            catalogue = self._find()
            missing = [file for file in catalogue.files if file not in loaded]
            loaded = {**loaded, **load_models(self._settings, missing)}
        else:
            catalogue = self._find()
        read = loaded or {}
        predictors = {file: self._load(file, read.get(file)) for file in catalogue.files}
        self._serve(catalogue, predictors)

    async def reload(self) -> None:
        """As `rescan`, until what answers no more is closed."""
        await self.rescan()
        await asyncio.gather(*self._retiring)

    async def rescan(self) -> list[str]:
        """Serves what there is now, once that is checked and warm; returns what went wrong.

        Requests that have begun keep the network they began with, so none fails. A file that cannot
        be served changes nothing for its model, and the log says why.
        """
        async with self._changing:  # one after the other: the last one that was asked for stays
            try:
                found = await asyncio.to_thread(self._find)
            except (ModelError, OSError) as error:
                return [_report(error)]
            # What the supervisor has not copied again is the same.
            kept = set(self._files) if self._follows else set()
            catalogue = found if self._follows else self.catalogue.rescanned(found)
            served, predictors, failures = await self._load_all(catalogue, kept)
            for file in predictors.keys() - kept if not failures else ():
                predictor = predictors[file]
                logger.info("reloaded: %s %s", predictor.name, predictor.checkpoint.version)
            self._retire_later(self._serve(served, predictors))
            return failures

    async def change_model(self, name: str, is_load: bool) -> None:
        """Loads or unloads a model; see there."""
        await (self.load_model(name) if is_load else self.unload_model(name))

    async def load_model(self, name: str) -> None:
        """Serves a model as its files are now.

        Raises:
            ModelError: it cannot be served; then nothing has changed.
        """
        async with self._changing:
            found = await asyncio.to_thread(self._find)
            catalogue = self.catalogue.with_model(name, found)
            fresh = {
                file: await asyncio.to_thread(self._load, file) for file in catalogue.files_of(name)
            }
            old = self._serve(catalogue, {**self._files, **fresh})
        self._retire_later(old)

    async def unload_model(self, name: str) -> None:
        """Serves a model no more; requests that have begun are answered.

        Raises:
            ModelError: it is the default, or there is none of this name.
        """
        async with self._changing:
            old = self._serve(self.catalogue.without_model(name), self._files)
        self._retire_later(old)

    async def close(self) -> None:
        """Serves nothing more; finishes what is queued."""
        self._default, self._models = None, {}
        await self._resources.close(_CLOSING_SECONDS)
        if self._review is not None:
            self._review.close()

    def _load(self, file: ModelFile, checkpoint: AnyCheckpoint | None = None) -> Predictor:
        return load_predictor(
            self._settings, file, checkpoint, self._metrics, self._resources, self._review
        )

    async def _load_all(
        self, catalogue: Catalogue, kept: Collection[ModelFile]
    ) -> tuple[Catalogue, dict[ModelFile, Predictor], list[str]]:
        """The predictors of a catalogue; where a file fails, the one before stays in its place."""
        predictors: dict[ModelFile, Predictor] = {}
        failed: dict[str, str] = {}
        for file in catalogue.files:
            if file in kept:
                predictors[file] = self._files[file]
                continue
            try:
                predictors[file] = await asyncio.to_thread(self._load, file)
            except (ModelError, OSError) as error:
                failed[file.name] = _report(error)
                before = _same(self._files, file)
                if before is not None:
                    predictors[before] = self._files[before]
        failures = list(failed.values())
        names = {file.name for file in predictors}
        if catalogue.default not in names:  # it is new, and cannot be served
            return self.catalogue, dict(self._files), failures
        missing = {name: why for name, why in failed.items() if name not in names}
        unloaded = {**catalogue.unloaded, **missing}
        return Catalogue(catalogue.default, tuple(predictors), unloaded), predictors, failures

    def _serve(
        self, catalogue: Catalogue, predictors: Mapping[ModelFile, Predictor]
    ) -> list[Predictor]:
        """From now on these answer; returns those that do no more."""
        before = list(self._files.values())
        self._files = {file: predictors[file] for file in catalogue.files}
        models: dict[str, dict[str, Predictor]] = {name: {} for name in catalogue.names}
        for file, predictor in self._files.items():
            models[file.name][file.version] = predictor
        self.catalogue, self._models = catalogue, models
        self._default = models[catalogue.default][newest(models[catalogue.default])]
        if self._metrics is not None:
            served = {
                name: versions[newest(versions)].checkpoint for name, versions in models.items()
            }
            self._metrics.serve_models(
                {name: checkpoint.version for name, checkpoint in served.items()},
                self._resources.scheduler.most_queued,
                {name: _entropy_shares(checkpoint) for name, checkpoint in served.items()},
            )
        return [each for each in before if each not in self._files.values()]

    def _retire_later(self, old: list[Predictor]) -> None:
        task = asyncio.get_running_loop().create_task(self._retire(old))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, old: list[Predictor]) -> None:
        """Closes predictors once no request can be at work with them; nothing keeps them longer."""
        left = [weakref.ref(predictor) for predictor in old]
        old.clear()
        await asyncio.sleep(self._settings.max_timeout_ms / 1000)
        for each in left:
            if (predictor := each()) is not None:
                await predictor.close(_CLOSING_SECONDS)
        gc.collect()


def _entropy_shares(checkpoint: AnyCheckpoint) -> EntropyShares:
    read = ((mode, read_entropy_shares(checkpoint.calibration, mode)) for mode in get_args(Mode))
    return {mode: shares for mode, shares in read if shares is not None}


def _report(error: Exception) -> str:
    logger.error("the checkpoint is not reloaded, the old one serves on: %s", error)
    return str(error)


def _same(files: Collection[ModelFile], wanted: ModelFile) -> ModelFile | None:
    """The file that is served as the same version of the same model."""
    for file in files:
        if (file.name, file.version) == (wanted.name, wanted.version):
            return file
    return None
