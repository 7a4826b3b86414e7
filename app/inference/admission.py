"""What a predictor takes on, and what it refuses before it has computed anything."""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from app.errors import ApiError, ErrorCode
from app.inference.backlog import Charge
from app.inference.costs import NetworkCost
from app.inference.decoding import Image
from app.schemas import McParameters, PredictParameters
from app.settings import Settings

if TYPE_CHECKING:
    from app.inference.answers import AnswerBuilder
    from app.inference.jobs import Job
    from app.inference.reading import PictureReader
    from app.inference.resources import Resources
    from app.inference.scheduler import Scheduler
    from app.schemas import McPrediction

# A smaller request, or one that waits less, is answered before its caller can be seen to be gone.
_WATCHED_PASSES, _WATCHED_SECONDS = 256, 0.01
# What costs more is computed in a thread, where that can be done: about 1 ms.
INLINE_COST = 200


class Recheck(NamedTuple):
    """Asks whether requests like a refused one would still wait too long; keeps no network alive.

    Attributes:
        scheduler, reader: what they wait for.
        cost: of an image, in passes.
        timeout: seconds after which nobody wants the answer.
    """

    scheduler: "Scheduler[Job, McPrediction]"
    reader: "PictureReader"
    cost: int
    timeout: float

    def __call__(self, images: int, start: bytes = b"", size: int = 0) -> int | None:
        """Milliseconds that a request would wait; None: that is not too long.

        What is not refused counts until its own task admits it, in the next turn of the event loop.

        Args:
            images: their number.
            start: of the file of one image, see `picture_cost`; nothing: decoding it costs nothing.
            size: of that file.
        """
        cost, decoding_cost = self.cost * images, 0
        wait = self.scheduler.wait_if_too_long(cost, 0, self.timeout)
        if wait is None and start and (decoding_cost := self.reader.cost(start, size)):
            before = self.reader.wait(decoding_cost)
            wait = self.scheduler.wait_if_too_long(cost, before, self.timeout)
        if wait is None:
            decoding = Charge(self.reader.backlog, decoding_cost)
            self.scheduler.expected.add(Charge(self.scheduler.backlog, cost), decoding)
        return wait


def note_recheck(
    error: ApiError, recheck: Recheck, ask: Callable[[Recheck, bytes, int], int | None]
) -> None:
    """Notes how to ask about further requests with the head of one that was refused.

    Args:
        error: that it was refused with.
        recheck: of what the head says.
        ask: with the beginning of their bodies, and the size of the whole.
    """
    if error.kind is ErrorCode.OVERLOADED:
        error.recheck = partial(ask, recheck)


class Admission:
    """The part of a predictor that admits requests to what all networks share.

    Args:
        shared: the scheduler and the reader.
        cost: what the network takes.
        answers: of the network, which know what it is calibrated for.
        settings: the limits.
    """

    def __init__(
        self, shared: "Resources", cost: NetworkCost, answers: "AnswerBuilder", settings: Settings
    ) -> None:
        self.scheduler, self._reader = shared.scheduler, shared.reader
        self._network_cost = cost
        self._answers = answers
        self._settings = settings
        self._is_closed = False

    def may_take_long(self, image: Image, parameters: PredictParameters) -> bool:
        """Whether a request takes or waits long enough for its caller to go away meanwhile."""
        if self._reader.cost(image) > 0:
            return True
        cost = self._network_cost
        if not isinstance(parameters, McParameters):
            return cost.deterministic > INLINE_COST
        if parameters.passes * cost.per_pass > _WATCHED_PASSES:
            return True
        return self.scheduler.backlog.wait(self._cost(parameters)) > _WATCHED_SECONDS

    def check(self, parameters_type: type[PredictParameters]) -> None:
        """Refuses what admission would refuse of the smallest request: before its body is read.

        Under overload the server must spend next to nothing on what it refuses.

        Raises:
            ApiError: see `Scheduler.check`.
        """
        if self._is_closed:
            raise ErrorCode.NOT_READY()
        cost = self._network_cost
        is_sampled = issubclass(parameters_type, McParameters)
        least = cost.per_image + cost.per_pass if is_sampled else cost.deterministic
        try:
            self.scheduler.check(least)
        except ApiError as error:
            recheck = Recheck(self.scheduler, self._reader, least, math.inf)
            note_recheck(error, recheck, lambda smallest, *_: smallest(1))
            raise

    def check_request(
        self, images: int, parameters: PredictParameters, *, decoding_cost: int = 0
    ) -> None:
        """Refuses what admission would refuse, before anything is made of the request.

        Args:
            images: their number.
            parameters: validated.
            decoding_cost: of the images, see `picture_cost`.

        Raises:
            ApiError: see `Scheduler.check`.
        """
        cost = self._cost(parameters) * images
        before, timeout = self._reader.wait(decoding_cost), self._timeout(parameters)
        self.scheduler.check(cost, before=before, timeout=timeout)

    def recheck(self, parameters: PredictParameters) -> Recheck:
        """For requests with these parameters."""
        cost, timeout = self._cost(parameters), self._timeout(parameters)
        return Recheck(self.scheduler, self._reader, cost, timeout)

    def _admit(
        self,
        images: Sequence[Image | ApiError],
        parameters: PredictParameters,
        decoding: Charge,
    ) -> AbstractContextManager[Charge]:
        """Counts a request as queued while the block lasts; refuses what cannot be answered.

        Raises:
            ApiError: see `AnswerBuilder.check` and `Scheduler.check`.
        """
        if self._is_closed:
            raise ErrorCode.NOT_READY()
        self._answers.check(parameters)
        cost = self._cost(parameters) * len(images)
        before, timeout = self._reader.wait(decoding.cost), self._timeout(parameters)
        return self.scheduler.admit(cost, before=before, timeout=timeout)

    def _cost(self, parameters: PredictParameters) -> int:
        """Of an image, besides decoding it."""
        cost = self._network_cost
        if isinstance(parameters, McParameters):
            return parameters.passes * cost.per_pass + cost.per_image
        return cost.deterministic

    def _timeout(self, parameters: PredictParameters) -> float:
        return (parameters.timeout_ms or self._settings.max_timeout_ms) / 1000

    def _deadline(self, parameters: PredictParameters) -> float:
        return time.monotonic() + self._timeout(parameters)
