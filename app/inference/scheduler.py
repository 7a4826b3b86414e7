"""Shares one engine among requests: computes for the request at the front, and never waits.

A request brings one or many jobs, one for each image. The engine computes one step of one job at a
time. The number of its passes follows from their measured speed, so that a step is short enough to
run on the event loop, which gets its turn after each round of steps. A request that has had its
share of time goes to the back, so that a large batch does not hold up small requests. Waiting for
company would only add its delay: a pass costs the same in any company.

This module knows asyncio and a clock. What a job computes is known to two functions only.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Generic, Protocol, TypeVar

from app.errors import ApiError, ErrorCode

logger = logging.getLogger("dropserve")

# Headroom: a request is admitted only if this many of its cost would still fit.
_HEADROOM = 20
# Of the latest step in the exponential moving average of the speed.
_WEIGHT = 0.05


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

# Computes about as many passes of the job as given; returns how many.
Step = Callable[[J, int], int]
# Makes the answer of a job from the passes computed so far.
MakeAnswer = Callable[[J], R]


class _Request(Generic[J, R]):
    """The jobs of one request, in the order of its answers."""

    def __init__(self, jobs: Sequence[J], deadline: float, done: "asyncio.Future[None]") -> None:
        self.open = deque(jobs)  # not answered yet
        self.answers: list[R | Exception] = []
        self.deadline = deadline
        self.done = done
        self.events: asyncio.Queue[R | None] | None = None  # None in it is the end
        self.spent = 0.0  # seconds of its steps since it was last put at the back
        self.seconds = 0.0  # of all its steps

    def fail(self, error: Exception) -> None:
        """Ends every job that is not answered yet with the error."""
        self.answers += [error] * len(self.open)
        self.finish()

    def finish(self) -> None:
        """Wakes the caller, if there still is one."""
        self.open.clear()
        if self.events is not None:
            self.events.put_nowait(None)
        if not self.done.done():
            self.done.set_result(None)


class Scheduler(Generic[J, R]):
    """Runs jobs in rounds on the running event loop.

    Args:
        step: computes; called on the event loop.
        make_answer: called when a job is finished, or a partial result is due.
        round_seconds: of steps, after which the event loop gets its turn.
        share_seconds: of its steps, after which a request goes to the back of the queue.
        max_queued: passes that may be admitted at a time.
        note_queued: called with each change of the queue, in passes.
        passes_per_second: a first guess, replaced by measurements.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        step: Step[J],
        make_answer: MakeAnswer[J, R],
        *,
        round_seconds: float,
        share_seconds: float,
        max_queued: int,
        note_queued: Callable[[int], None] | None = None,
        passes_per_second: float = 100_000.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._make_answer = make_answer
        self._round_seconds = round_seconds
        self._share_seconds = share_seconds
        self._max_queued = max_queued
        self._most_headroom = -(-7 * max_queued // 8)
        self._note_queued = note_queued
        self._clock = clock
        self._requests: deque[_Request[J, R]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False  # admits nothing more
        self._is_stopped = False  # computes nothing more
        self._serving: asyncio.Task[None] | None = None
        self._passes_per_second = passes_per_second
        self.queued = 0  # passes admitted and not yet answered

    def check(self, cost: int) -> None:
        """Refuses what `admit` would refuse; admits nothing.

        Headroom: a request is admitted only if twenty requests of its cost would still fit. Where
        many ask for much, each of them would wait for all others, and so would small requests. An
        eighth of the limit is open to every request, since one that costs more than the whole limit
        would never fit otherwise.

        Args:
            cost: of what the scheduler computes, in passes.

        Raises:
            ApiError: overloaded, too much is queued already;
                not_ready, the server is stopping.
        """
        if self._is_closed:
            raise ErrorCode.NOT_READY()
        headroom = min(_HEADROOM * cost, self._most_headroom)
        if self.queued and self.queued + headroom > self._max_queued:
            seconds = max(1, math.ceil(self.queued / self._passes_per_second))
            raise ErrorCode.OVERLOADED(headers={"Retry-After": str(seconds)})

    @contextmanager
    def admit(self, cost: int, *, extra: int = 0) -> Iterator[None]:
        """Counts a request's cost as queued while the `with` block lasts.

        Args:
            cost: of what the scheduler computes, in passes.
            extra: of what another thread does for the request first. It counts as queued, but needs
                no headroom.

        Raises:
            ApiError: see `check`.
        """
        self.check(cost)
        self._count(cost + extra)
        try:
            yield
        finally:
            self._count(-cost - extra)

    def _count(self, passes: int) -> None:
        self.queued += passes
        if self._note_queued is not None:
            self._note_queued(passes)
        if self.queued:
            self._idle.clear()
        else:
            self._note_if_idle()

    async def run(self, jobs: Sequence[J], deadline: float) -> tuple[list[R | Exception], float]:
        """Computes the jobs of one request.

        Cancelling the call drops what is not computed yet.

        Args:
            jobs: one for each answer.
            deadline: on the scheduler's clock. Jobs that are not computed by then end with
                deadline_exceeded.

        Returns:
            The answers in the order of the jobs, an exception where a job failed; and the seconds
            that they were computed.

        Raises:
            ApiError: not_ready, the scheduler was closed and its time to finish is over.
        """
        if not jobs:
            return [], 0.0
        request = self._enqueue(jobs, deadline)
        try:
            await request.done
        finally:
            request.open.clear()
        return request.answers, request.seconds

    async def stream(self, job: J, deadline: float) -> AsyncGenerator[tuple[R, float], None]:
        """Computes one job and yields its partial results, then its answer; see `run`.

        Each comes with the seconds that the job was computed so far.

        Raises:
            Exception: what the job failed with; also ApiError, deadline_exceeded.
        """
        request = self._enqueue([job], deadline)
        events: asyncio.Queue[R | None] = asyncio.Queue()
        request.events = events
        try:
            while (event := await events.get()) is not None:
                yield event, request.seconds
        finally:
            request.open.clear()
        (answer,) = request.answers
        if isinstance(answer, Exception):
            raise answer
        yield answer, request.seconds

    async def close(self, seconds: float) -> None:
        """Admits nothing more, finishes what is admitted, and fails the rest after `seconds`."""
        self._is_closed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._is_stopped = True
        self._fail_all(ErrorCode.NOT_READY())
        if self._serving is not None:
            self._serving.cancel()

    def _enqueue(self, jobs: Sequence[J], deadline: float) -> _Request[J, R]:
        if self._is_stopped:
            raise ErrorCode.NOT_READY()
        loop = asyncio.get_running_loop()
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve(), name="scheduler")
        request: _Request[J, R] = _Request(jobs, deadline, loop.create_future())
        self._requests.append(request)
        self._idle.clear()
        self._wake.set()
        return request

    async def _serve(self) -> None:
        try:
            while True:
                try:
                    self._run_round()
                except Exception as error:  # a defect here must not leave callers waiting for ever
                    logger.exception("the scheduler failed")
                    self._fail_all(_as_internal(error))
                if self._requests:
                    await asyncio.sleep(0)  # requests that arrived meanwhile are read now
                    continue
                self._note_if_idle()
                self._wake.clear()
                await self._wake.wait()
        finally:  # neither must the end of this task; the next request starts another
            self._fail_all(ErrorCode.NOT_READY())

    def _note_if_idle(self) -> None:
        if not self._requests and not self.queued:
            self._idle.set()

    def _fail_all(self, error: Exception) -> None:
        for request in self._requests:
            request.fail(error)
        self._requests.clear()

    def _run_round(self) -> None:
        started = now = self._clock()
        self._drop_ended(now)
        while self._requests and now - started < self._round_seconds:
            request = self._requests[0]
            passes = self._take_step(request)
            before, now = now, self._clock()
            seconds = now - before
            request.seconds += seconds
            request.spent += seconds
            if passes and seconds > 0:
                self._passes_per_second += _WEIGHT * (passes / seconds - self._passes_per_second)
            if not request.open:
                self._requests.popleft()
                request.finish()
            elif request.spent >= self._share_seconds:
                request.spent = 0.0
                self._requests.rotate(-1)
            if request.events is not None:
                break  # its reader gets each partial result while the next is computed

    def _drop_ended(self, now: float) -> None:
        """Ends the overdue requests; forgets them, and those whose caller went away."""
        for request in self._requests:
            if request.deadline <= now:
                request.fail(ErrorCode.DEADLINE_EXCEEDED())
        self._requests = deque(request for request in self._requests if request.open)

    def _take_step(self, request: _Request[J, R]) -> int:
        """Computes a step of the first open job, and its answer if one is due.

        Returns:
            The number of passes computed; 0 if the job failed.
        """
        job, passes = request.open[0], 0
        answer: R | Exception
        try:
            passes = self._step(job, max(1, round(self._passes_per_second * self._round_seconds)))
            if not (job.is_finished or job.has_partial_result):
                return passes
            answer = self._make_answer(job)
        except Exception as error:
            logger.exception("a job failed")
            answer = _as_internal(error)
        if job.is_finished or isinstance(answer, Exception):
            request.open.popleft()
            request.answers.append(answer)
        elif request.events is not None:
            request.events.put_nowait(answer)
        return passes


def _as_internal(error: Exception) -> ApiError:
    internal = ErrorCode.INTERNAL()
    internal.__cause__ = error
    return internal
