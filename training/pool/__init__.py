"""A pool of pictures, drawn once, that training and calibration draw from.

Most are no digits; some are digits as MNIST hardly has them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model.arrays import Pixels
from model.checkpoint import VERSION_DIGITS
from model.files import write_atomically
from training.data import Images
from training.errors import TrainingError

_SHOWN, _KEPT_BACK, _DIGITS = "shown", "kept_back", "digits"


@dataclass(frozen=True)
class Pool:
    """Images that are no digits, ink 0 to 255, (N, 28, 28) of each kind and form.

    A form is "auto", as a server's preparation leaves a picture, or "none", as it is.

    Attributes:
        shown: per kind and form, for training.
        kept_back: per kind and form, for calibration and for choosing a recipe.
        digits: per kind and label, for training.
        version: the first digits of the file's SHA-256.
    """

    shown: Mapping[tuple[str, str], Pixels]
    kept_back: Mapping[tuple[str, str], Pixels]
    digits: Mapping[tuple[str, str], Pixels] = field(default_factory=dict)
    version: str = ""

    def pixels(self) -> Pixels:
        """All that training is shown, (N, 28, 28)."""
        return np.concatenate(list(self.shown.values()))

    def card(self) -> dict[str, object]:
        """What a recipe records of the pool."""
        kinds = sorted({kind for kind, _ in self.shown})
        card: dict[str, object] = {
            "version": self.version,
            "images": len(self.pixels()),
            "kinds": kinds,
        }
        if self.digits:
            card["digits"] = {kind: len(pixels) for (kind, _), pixels in self.digits.items()}
        return card

    def with_digits(self, images: Images) -> Images:
        """The images, and the pool's digits behind them."""
        pixels = np.concatenate([images.pixels, *self.digits.values()])
        labels = [np.full(len(each), int(label)) for (_, label), each in self.digits.items()]
        return replace(images, pixels=pixels, labels=np.concatenate([images.labels, *labels]))


def save_pool(path: Path, pool: Pool) -> None:
    parts = {_SHOWN: pool.shown, _KEPT_BACK: pool.kept_back, _DIGITS: pool.digits}
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
    parts: dict[str, dict[tuple[str, str], Pixels]] = {_SHOWN: {}, _KEPT_BACK: {}, _DIGITS: {}}
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
    return Pool(parts[_SHOWN], parts[_KEPT_BACK], parts[_DIGITS], version)
