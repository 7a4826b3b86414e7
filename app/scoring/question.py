"""What is asked of every image; importing it imports no engine, no NumPy and no pyarrow."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from app.schemas import McParameters
from app.settings import Settings

# Of a request, those that can be asked.
PARAMETERS = ("passes", "seed", "estimator", "preprocess")


@dataclass(frozen=True)
class Question:
    """The parameters of a request, and what the settings decide."""

    parameters: McParameters  # without a seed, each image draws its own
    column: str | None  # of Parquet files; None: the one that holds images
    settings: Settings  # name the network, and where and how exactly it computes

    def describe(self) -> dict[str, Any]:
        """All that the answers depend on, as JSON.

        Raises:
            CheckpointError: the checkpoint cannot be read.
        """
        from app.inference.served_checkpoint import load_served_checkpoint

        return {
            "dropserve": version("dropserve"),
            **{name: getattr(self.parameters, name) for name in PARAMETERS},
            "column": self.column,
            "model": load_served_checkpoint(self.settings).version,
            **self.settings.model_dump(include={"device", "precision", "max_pixels"}),
        }


class ClusterError(Exception):
    """The cluster gave up; the text is one line for the user."""
