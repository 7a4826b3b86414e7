"""A request of the scheduler: its jobs, and what is known of them so far."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from app.inference.backlog import Charge


class Job(Protocol):
    """The computation of one image, in steps."""

    @property
    def is_finished(self) -> bool:
        """Whether its answer can be made."""

    @property
    def has_partial_result(self) -> bool:
        """Whether a partial result is due after this step."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")


class QueuedRequest(Generic[J, R]):
    """The jobs of one request, in the order of its answers."""

    def __init__(
        self, jobs: Sequence[J], deadline: float, charge: "Charge", done: "asyncio.Future[None]"
    ) -> None:
        self.open = deque(jobs)  # not computed yet
        self.charge = charge
        self.cost_of_job = charge.cost // len(jobs)
        self.done_of_job = 0  # passes of the first open job
        self.answers: list[R | Exception] = []
        self.deadline = deadline
        self.done = done
        self.events: asyncio.Queue[R | None] | None = None  # None in it is the end
        self.spent = 0.0  # seconds of its steps since it was last put behind others of its size
        self.seconds = 0.0  # of all its steps and answers

    def settle(self, done_of_job: int) -> None:
        """Notes how much of the first open job is computed, in passes."""
        self.done_of_job = done_of_job
        left = self.cost_of_job * len(self.open) - done_of_job
        self.charge.settle(max(0, left))

    def fail(self, error: Exception) -> None:
        """Ends every job that is not computed yet with the error."""
        self.answers += [error] * len(self.open)
        self.finish()

    def finish(self) -> None:
        """Wakes the caller, if there still is one; once."""
        self.open.clear()
        if not self.done.done():
            self.done.set_result(None)
            if self.events is not None:
                self.events.put_nowait(None)
