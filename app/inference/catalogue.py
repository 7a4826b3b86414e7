"""Which checkpoint files are served, under which names and versions, and which of them by default.

A file may be named by the settings one by one, or lie in a folder as Triton has it:
`DIR/NAME/VERSION/model.safetensors`. Of several versions of a name the highest is the newest, and
it answers where no version is asked for.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from app.settings import Settings, check_model_name
from model.checkpoint import DEFAULT_CHECKPOINT, load_any_checkpoint
from model.errors import CheckpointError
from model.files import write_atomically

FIRST_VERSION = "1"
_FILE = "model.safetensors"


class ModelFile(NamedTuple):
    """A checkpoint file, and what it is served as.

    Attributes:
        name: of the model.
        version: of the model: a whole number, as in V2's addresses.
        path: of the file.
    """

    name: str
    version: str
    path: Path


@dataclass(frozen=True)
class Catalogue:
    """What is served.

    Attributes:
        default: the name of the model that the short routes are for.
        files: of every model and version.
        unloaded: names that are known and not served, each with the reason.
        generation: grows with each change that a supervisor makes.
    """

    default: str
    files: tuple[ModelFile, ...]
    unloaded: Mapping[str, str] = field(default_factory=dict)
    generation: int = 0

    @property
    def names(self) -> list[str]:
        """The names that are served, the default first."""
        return sorted({file.name for file in self.files}, key=lambda name: name != self.default)

    def files_of(self, name: str) -> tuple[ModelFile, ...]:
        """The versions of a model."""
        return tuple(file for file in self.files if file.name == name)

    def file_of(self, name: str | None = None) -> ModelFile:
        """The newest version of a model; without a name, of the default.

        Raises:
            CheckpointError: there is no such model.
        """
        files = self.files_of(name or self.default)
        if not files:
            names = ", ".join(self.names)
            raise CheckpointError(f"there is no model {name}; the models are {names}")
        return max(files, key=lambda file: int(file.version))

    def with_model(self, name: str, found: "Catalogue") -> "Catalogue":
        """The same with a model as another catalogue has it.

        Raises:
            CheckpointError: it has no such model.
        """
        files = found.files_of(name)
        if not files:
            reason = found.unloaded.get(name, "there is no such model")
            raise CheckpointError(f"the model {name} cannot be loaded: {reason}")
        others = tuple(file for file in self.files if file.name != name)
        return replace(self, files=(*others, *files), unloaded=_without(self.unloaded, name))

    def without_model(self, name: str) -> "Catalogue":
        """The same without a model.

        Raises:
            CheckpointError: it is the default, or there is no such model.
        """
        if name == self.default:
            raise CheckpointError(
                f"{name} is the default model, which the short addresses are for; choose another "
                "with DROPSERVE_DEFAULT_MODEL before it is unloaded"
            )
        if not self.files_of(name):
            raise CheckpointError(f"the model {name} is not loaded")
        files = tuple(file for file in self.files if file.name != name)
        return replace(self, files=files, unloaded={**self.unloaded, name: UNLOADED})

    def rescanned(self, found: "Catalogue") -> "Catalogue":
        """What there is now, except the models that were unloaded on request."""
        kept = {
            name: reason
            for name, reason in self.unloaded.items()
            if reason == UNLOADED and name != found.default and found.files_of(name)
        }
        files = tuple(file for file in found.files if file.name not in kept)
        return replace(found, files=files, unloaded={**found.unloaded, **kept})


UNLOADED = "unloaded"


def newest(versions: Collection[str]) -> str:
    """The highest of the numbers of a model's versions."""
    return max(versions, key=int)


def find_models(settings: Settings) -> Catalogue:
    """The files that the settings name; without any, the committed ones.

    Raises:
        CheckpointError: there is none, or none of the default's name.
    """
    files: list[ModelFile] = []
    missing: dict[str, str] = {}
    default = settings.default_model
    if settings.checkpoint is not None:
        name = load_any_checkpoint(settings.checkpoint).name
        if name.endswith("-mc"):
            check_model_name(name)
        files.append(ModelFile(name, FIRST_VERSION, settings.checkpoint))
    elif settings.models is not None:
        files, missing = _scan(settings.models)
    elif settings.model:
        pairs = [each.partition("=") for each in settings.model]
        files = [ModelFile(name, FIRST_VERSION, Path(path)) for name, _, path in pairs]
    else:
        folder = DEFAULT_CHECKPOINT.parent
        committed = sorted(
            folder.glob("*.safetensors"), key=lambda path: path != DEFAULT_CHECKPOINT
        )
        files = [ModelFile(path.stem, FIRST_VERSION, path) for path in committed]
    names = [file.name for file in files]
    if default is not None and default not in names:
        raise CheckpointError(
            f"there is no model {default} to be the default; the models are {', '.join(names)}"
        )
    if not files:
        raise CheckpointError(f"there is no NAME/VERSION/{_FILE} in {settings.models}")
    return Catalogue(default or names[0], tuple(files), missing)


def _scan(folder: Path) -> tuple[list[ModelFile], dict[str, str]]:
    """The files of a folder, sorted, and the names without any."""
    files: list[ModelFile] = []
    missing: dict[str, str] = {}
    try:
        names = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise CheckpointError(f"cannot read the folder {folder}: {error.strerror}") from error
    for path in names:
        if path.name.startswith("."):
            continue
        try:
            check_model_name(path.name)
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}") from error
        versions = [file.parent.name for file in path.glob(f"*/{_FILE}")]
        versions = [each for each in versions if each.isdecimal() and str(int(each)) == each]
        versions.sort(key=int)
        files += [ModelFile(path.name, each, path / each / _FILE) for each in versions]
        if not versions:
            missing[path.name] = f"it has no VERSION/{_FILE}; VERSION is a number such as 1"
    return files, missing


def _without(reasons: Mapping[str, str], name: str) -> dict[str, str]:
    return {each: reason for each, reason in reasons.items() if each != name}


def write_catalogue(path: Path, catalogue: Catalogue) -> None:
    """Writes the file that `read_catalogue` reads, atomically."""
    files = [[file.name, file.version, str(file.path)] for file in catalogue.files]
    document = {
        "default": catalogue.default,
        "files": files,
        "unloaded": dict(catalogue.unloaded),
        "generation": catalogue.generation,
    }
    write_atomically(path, json.dumps(document).encode())


def read_catalogue(path: Path) -> Catalogue:
    """What the supervisor serves, for its workers."""
    document = json.loads(path.read_bytes())
    files = tuple(ModelFile(name, version, Path(file)) for name, version, file in document["files"])
    return Catalogue(
        document["default"], files, document["unloaded"], generation=document["generation"]
    )
