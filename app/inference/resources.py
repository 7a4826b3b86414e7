"""What all networks of a process share: one scheduler, one reader of pictures, one budget."""

from typing import TYPE_CHECKING

from app.inference.costs import IMAGE_COST, Unit
from app.inference.scheduler import Scheduler
from app.settings import Settings

if TYPE_CHECKING:
    from app.inference.jobs import Job
    from app.inference.reading import PictureReader
    from app.schemas import McPrediction
    from app.telemetry.metrics import Metrics

# The event loop gets its turn after each round.
ROUND_SECONDS = 0.001
# After this time a request lets others of its size go first. Those that take less finish in the
# order in which they came, since taking turns would make nearly all of them late.
_SHARE_SECONDS = 0.05
# Under overload one wait in a hundred was up to this multiple of the predicted one, in
# `python -m tests.load.overload`; of batches more.
_LONGEST_TO_PREDICTED = 2.0


class Resources:
    """Shared by the predictors of one event loop.

    Attributes:
        scheduler: computes the passes of every network.
        reader: reads the pictures for every network.
        unit: of their costs.
    """

    def __init__(
        self, settings: Settings, reader: "PictureReader", metrics: "Metrics | None" = None
    ) -> None:
        self.scheduler: Scheduler[Job, McPrediction] = Scheduler(
            _step,
            _answer,
            round_seconds=ROUND_SECONDS,
            share_seconds=_SHARE_SECONDS,
            max_wait_seconds=settings.max_wait_ms / 1000 / _LONGEST_TO_PREDICTED,
            job_cost=IMAGE_COST,
            note_queued=None if metrics is None else metrics.change_queue,
        )
        self.reader = reader
        self.unit = Unit()

    async def close(self, seconds: float) -> None:
        """Finishes what is queued, for at most `seconds`; answers the rest with an error."""
        await self.scheduler.close(seconds)
        self.reader.close()


def _step(job: "Job", cost: int) -> int:
    assert job.owner is not None
    return job.owner.step(job, cost)


def _answer(job: "Job") -> "McPrediction":
    assert job.owner is not None
    return job.owner.answer(job)
