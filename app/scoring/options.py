"""What is asked of every image; reading it imports no engine."""

import argparse
import hashlib
import os
from dataclasses import dataclass
from typing import Any

from app.errors import ApiError, UsageError
from app.inference.parameters import parse_parameters
from app.schemas import McParameters
from app.settings import Settings, load_settings

# Of a request, those that the command takes.
PARAMETERS = ("passes", "seed", "estimator", "preprocess")


@dataclass(frozen=True)
class ScoreOptions:
    """The parameters of a request, and what the settings decide.

    Attributes:
        parameters: of every image; without a seed, each draws its own.
        column: of Parquet files; None: the one that holds images.
        settings: name the network, and where and how exactly it computes.
    """

    parameters: McParameters
    column: str | None
    settings: Settings

    @classmethod
    def read(cls, given: argparse.Namespace) -> "ScoreOptions":
        """From the command line and the environment.

        Raises:
            UsageError: a value is out of range.
            SettingsError: a variable is unknown, or its value impossible.
        """
        if given.workers is not None and given.workers < 1:
            raise UsageError("--workers must be a whole number from 1 on")
        settings = load_settings(os.environ, {"checkpoint": given.checkpoint})
        pairs = [(name, getattr(given, name)) for name in PARAMETERS]
        try:
            parameters = parse_parameters(pairs, McParameters, settings)
        except ApiError as error:
            raise UsageError(f"--{error.message}") from error
        return cls(parameters, given.column, settings)

    def describe(self, checkpoint: bytes) -> dict[str, Any]:
        """All that the answers depend on, as JSON.

        Args:
            checkpoint: content of its file.
        """
        return {
            **{name: getattr(self.parameters, name) for name in PARAMETERS},
            "column": self.column,
            "model": hashlib.sha256(checkpoint).hexdigest()[:12],
            **self.settings.model_dump(include={"device", "precision", "max_pixels"}),
        }
