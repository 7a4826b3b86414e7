"""A pool of pictures that are no digits, drawn once: what training and calibration draw from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model.arrays import Pixels
from model.checkpoint import VERSION_DIGITS
from model.files import write_atomically
from training.errors import TrainingError

_SHOWN, _KEPT_BACK = "shown", "kept_back"


@dataclass(frozen=True)
class Pool:
    """Images that are no digits, ink 0 to 255, (N, 28, 28) of each kind and form.

    A form is "auto", as a server's preparation leaves a picture, or "none", as it is.

    Attributes:
        shown: per kind and form, for training.
        kept_back: per kind and form, for calibration and for choosing a recipe.
        version: the first digits of the file's SHA-256.
    """

    shown: Mapping[tuple[str, str], Pixels]
    kept_back: Mapping[tuple[str, str], Pixels]
    version: str = ""

    def pixels(self) -> Pixels:
        """All that training is shown, (N, 28, 28)."""
        return np.concatenate(list(self.shown.values()))

    def card(self) -> dict[str, object]:
        """What a recipe records of the pool."""
        kinds = sorted({kind for kind, _ in self.shown})
        return {"version": self.version, "images": len(self.pixels()), "kinds": kinds}


def save_pool(path: Path, pool: Pool) -> None:
    parts = {_SHOWN: pool.shown, _KEPT_BACK: pool.kept_back}
    tensors = {
        f"{use}.{kind}.{form}": pixels
        for use, images in parts.items()
        for (kind, form), pixels in images.items()
    }
    write_atomically(path, save(tensors))


def load_pool(path: Path) -> Pool:
    """Reads a pool.

    Raises:
        TrainingError: the file is missing, or no pool.
    """
    parts: dict[str, dict[tuple[str, str], Pixels]] = {_SHOWN: {}, _KEPT_BACK: {}}
    try:
        content = path.read_bytes()
        for name, pixels in sorted(load(content).items()):
            use, kind, form = name.split(".")
            parts[use][kind, form] = pixels
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(
            f"{path} holds no outliers: make them with dropserve-train outliers"
        ) from error
    version = hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]
    return Pool(parts[_SHOWN], parts[_KEPT_BACK], version)
