"""What is asked of every image; reading it needs no torch."""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from app.errors import UsageError
from app.settings import Settings

_MAX_SEED = 2**53 - 1


@dataclass(frozen=True)
class Question:
    """The parameters of a request, and what the settings decide.

    Attributes:
        seed: of every image; None: each draws its own.
        column: of Parquet files; None: the one that holds images.
        settings: name the network, and where and how exactly it computes.
    """

    passes: int
    seed: int | None
    estimator: Literal["independent", "balanced"]
    preprocess: Literal["auto", "none"]
    column: str | None
    settings: Settings

    def __post_init__(self) -> None:
        """Refuses what a server would.

        Raises:
            UsageError: a value is out of range.
        """
        most = self.settings.max_passes
        if not 1 <= self.passes <= most:
            raise UsageError(f"--passes must be a whole number from 1 to {most}")
        if self.seed is not None and not 0 <= self.seed <= _MAX_SEED:
            raise UsageError("--seed must be a whole number from 0 to 2^53 - 1")

    def describe(self, checkpoint: bytes) -> dict[str, Any]:
        """All that the answers depend on, as JSON.

        Args:
            checkpoint: content of its file.
        """
        return {
            "passes": self.passes,
            "seed": self.seed,
            "estimator": self.estimator,
            "preprocess": self.preprocess,
            "column": self.column,
            "model": hashlib.sha256(checkpoint).hexdigest()[:12],
            "device": self.settings.device,
            "precision": self.settings.precision,
            "max_pixels": self.settings.max_pixels,
        }
