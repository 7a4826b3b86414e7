"""What is asked of every image; importing it imports no engine and no pyarrow."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from app.errors import UsageError
from app.schemas import McParameters
from app.settings import Settings
from model.layered import InputSpec, spec_of

# Of a request, those that can be asked.
PARAMETERS = ("passes", "seed", "estimator", "preprocess")
# Of a block at most: about a second of a core, which is lost, or waited for, at an interruption.
_BLOCK_PASSES = 1024 * 50


@dataclass(frozen=True)
class Question:
    """The parameters of a request, and what the settings decide."""

    parameters: McParameters  # without a seed, each image draws its own
    column: str | None  # of Parquet files; None: the one that holds images
    settings: Settings  # name the network, and where and how exactly it computes

    @cached_property
    def spec(self) -> InputSpec | None:
        """What the network takes; None: pictures of digits.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        from app.inference.served_checkpoint import load_served_checkpoint

        spec = spec_of(load_served_checkpoint(self.settings).network)
        return None if spec.preparation == "digit" else spec

    @property
    def block_rows(self) -> int:
        """Images of a block at most."""
        return max(_BLOCK_PASSES // self.parameters.passes, 1)

    def describe(self) -> dict[str, Any]:
        """All that the answers depend on, as JSON.

        Raises:
            UsageError: the checkpoint cannot be read.
        """
        from app.inference.catalogue import find_models

        path = self.settings.checkpoint or find_models(self.settings).file_of().path
        try:
            model = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise UsageError(f"cannot read the checkpoint {path}: {error.strerror}") from error
        return {
            "dropserve": version("dropserve"),
            **{name: getattr(self.parameters, name) for name in PARAMETERS},
            "column": self.column,
            "model": model,
            **self.settings.model_dump(include={"device", "precision", "max_pixels"}),
        }


class ClusterError(Exception):
    """The cluster gave up; the text is one line for the user."""
