"""The checkpoint files of a server with several workers: copies, so that all serve the same.

A replacement serves what the other workers serve, whatever has become of the files since.
"""

import gc
import itertools
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from app.inference.catalogue import Catalogue, ModelFile, find_models, write_catalogue
from app.inference.memory import require_room
from app.settings import Settings
from model.checkpoint import read_checkpoint_file
from model.errors import ModelError

logger = logging.getLogger("dropserve")


class Copies:
    """Copies of the files that are served, and the catalogue that workers read.

    Args:
        folder: for the copies and the catalogue.
        settings: name the files, and say how they are served.
        check: raises a ModelError for a file that cannot be served.

    Attributes:
        path: of the catalogue.
        catalogue: what is served, by the files that were copied.

    Raises:
        ModelError: one of the files cannot be served.
    """

    def __init__(
        self, folder: Path, settings: Settings, check: Callable[[Settings, ModelFile], object]
    ) -> None:
        self.path = folder / "served.json"
        self._folder, self._settings, self._check = folder, settings, check
        self._numbers = itertools.count()
        self._made: set[Path] = set()
        found = find_models(settings)
        self.catalogue = found
        self._copies = {file: self._copy(file) for file in found.files}
        self._publish(found)

    @property
    def generation(self) -> int:
        """Of the latest change."""
        return self.catalogue.generation

    def rescan(self) -> bool:
        """Copies what there is now; returns whether anything has changed.

        A file that cannot be served changes nothing for its model, and the log says why.
        """
        try:
            found = find_models(self._settings)
        except (ModelError, OSError) as error:
            _report(error)
            return False
        wanted = self.catalogue.rescanned(found)
        copies: dict[ModelFile, Path] = {}
        failed: dict[str, str] = {}
        for file in wanted.files:
            try:
                copies[file] = self._copy(file)
            except (ModelError, OSError) as error:
                failed[file.name] = _report(error)
                if file in self._copies:
                    copies[file] = self._copies[file]
        served = {file.name for file in copies}
        is_same = copies == self._copies
        if is_same or wanted.default not in served:
            return False
        self._copies = copies
        missing = {name: why for name, why in failed.items() if name not in served}
        unloaded = {**wanted.unloaded, **missing}
        self._publish(replace(wanted, files=tuple(copies), unloaded=unloaded))
        return True

    def change(self, name: str, is_load: bool) -> None:
        """Loads or unloads a model.

        Raises:
            ModelError: that cannot be done; then nothing has changed.
        """
        if not is_load:
            self._publish(self.catalogue.without_model(name))
            return
        wanted = self.catalogue.with_model(name, find_models(self._settings))
        fresh = {file: self._copy(file) for file in wanted.files_of(name)}
        self._copies = {**self._copies, **fresh}
        self._publish(wanted)

    def state(self) -> tuple[Catalogue, dict[ModelFile, Path]]:
        """For `restore`."""
        return self.catalogue, dict(self._copies)

    def restore(self, state: tuple[Catalogue, dict[ModelFile, Path]]) -> None:
        """Takes a change back that a worker could not follow."""
        catalogue, self._copies = state
        self._publish(catalogue)

    def clean(self) -> None:
        """Removes the copies that no worker reads any more, once all serve the latest ones."""
        for path in self._made - set(self._copies.values()):
            path.unlink(missing_ok=True)
        self._made.intersection_update(self._copies.values())

    def _copy(self, file: ModelFile) -> Path:
        """Copies a file, and checks the copy."""
        require_room(file.path, self._settings.workers)
        copy = self._folder / f"{next(self._numbers)}.safetensors"
        self._made.add(copy)
        copy.write_bytes(read_checkpoint_file(file.path))
        try:
            self._check(self._settings, file._replace(path=copy))
        except BaseException:
            copy.unlink()
            raise
        gc.collect()
        return copy

    def _publish(self, catalogue: Catalogue) -> None:
        self.catalogue = replace(catalogue, generation=self.catalogue.generation + 1)
        self._copies = {file: self._copies[file] for file in catalogue.files}
        copied = tuple(file._replace(path=copy) for file, copy in self._copies.items())
        write_catalogue(self.path, replace(self.catalogue, files=copied))


def _report(error: Exception) -> str:
    logger.error("the checkpoint is not reloaded, the one before serves on: %s", error)
    return str(error)


def described(files: Collection[ModelFile]) -> str:
    """The models and their versions, for the log."""
    return ", ".join(f"{file.name} {file.version}" for file in files)
