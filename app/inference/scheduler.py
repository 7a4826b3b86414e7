"""Shares one engine among requests: takes what is queued when it is free, and never waits.

A request brings one or many pieces of work. The engine computes in rounds, short enough to run on
the event loop; a round is filled from the queue, oldest request first, with the work of as many
requests as fit. A request that has had its share goes to the back, so that a large batch does not
hold up small questions. Waiting for company would only add its delay: a round costs less.

Steps and answers are computed apart, and answers many at a time: each finds in the processor's
caches what it needs, where taking turns one would drive out the other's.

This module knows asyncio and a clock; what the work is, only the two functions know.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from app.errors import ApiError, ErrorCode
from app.telemetry.request_record import Timings

logger = logging.getLogger("dropserve")


# A request is admitted where there is room for so many of its cost.
_ROOM = 20
# Of a request for many answers so many are made at a time, in half a millisecond.
_ANSWERED_TOGETHER = 32


class Work(Protocol):
    """Something that is computed in steps."""

    @property
    def remaining(self) -> int:
        """Passes still to compute, at least 1 until it is finished."""

    @property
    def largest_step(self) -> int:
        """The most passes that one step should take."""


W = TypeVar("W", bound=Work)
F = TypeVar("F")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")


class Outcome(NamedTuple, Generic[F]):
    """What a step did to a piece of work.

    Attributes:
        is_finished: whether this was its last step.
        found: what its answer is made of; before the last step what an intermediate answer is
            made of, or None.
    """

    is_finished: bool
    found: F | None


# Computes one step of each piece of work, of at most so many passes; an exception in place of an
# outcome is that work's alone. A step that raises leaves its works as they were.
Step = Callable[[Sequence[tuple[W, int]]], Sequence[Outcome[F] | Exception]]
# Makes the answers of what steps have found; an exception in place of one is that work's alone.
MakeAnswers = Callable[[Sequence[tuple[W, F]]], Sequence[R | Exception]]


class WrongLengthError(RuntimeError):
    """A function did not return one result for each piece of work."""


class _Job(Generic[W, F, R]):
    """One request's works, in the order of its answers."""

    def __init__(self, works: Sequence[W], deadline: float, done: "asyncio.Future[None]") -> None:
        self.open = dict(enumerate(works))
        self.finished: list[tuple[int, W, F]] = []  # not answered yet
        self.answers: list[R | Exception | None] = [None] * len(works)
        self.deadline = deadline
        self.done = done
        self.events: asyncio.Queue[R | None] | None = None  # None in it is the end
        self.spent = 0  # passes since it last stood at the back
        self.computing_seconds = 0.0  # of the rounds that it was in

    def take_finished(self) -> "list[tuple[_Job[W, F, R], int, W, F]]":
        """What is computed and not answered yet, with this job; it will be answered now."""
        taken = [(self, *one) for one in self.finished]
        self.finished.clear()
        return taken

    def fail(self, error: Exception) -> None:
        """Ends whatever is not answered yet with the error."""
        for index in (*self.open, *(index for index, _, _ in self.finished)):
            self.answers[index] = error
        self.finish()

    def finish(self) -> None:
        """Tells the caller, if there still is one."""
        self.open.clear()
        if self.events is not None:
            self.events.put_nowait(None)
        if not self.done.done():
            self.done.set_result(None)


class Batcher(Generic[W, F, R]):
    """Runs works in rounds on the running event loop.

    Args:
        step: computes; called on the event loop, so a round must be short.
        make_answers: of what the steps have found; called after a round.
        round_passes: passes in a round.
        share_passes: passes after which a request goes to the back of the queue.
        work_overhead: what a piece of work costs in a round besides its passes, in passes.
        max_queued: passes that may be admitted at a time.
        note_queued: told of each change of what is queued, in passes.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        step: Step[W, F],
        make_answers: MakeAnswers[W, F, R],
        *,
        round_passes: int,
        share_passes: int,
        work_overhead: int,
        max_queued: int,
        note_queued: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._make_answers = make_answers
        self._round_passes = round_passes
        self._share_passes = share_passes
        self._work_overhead = work_overhead
        self._max_queued = max_queued
        self._most_room = -(-7 * max_queued // 8)
        self._note_queued = note_queued
        self._clock = clock
        self._jobs: deque[_Job[W, F, R]] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False  # takes nothing more
        self._is_stopped = False  # computes nothing more
        self._serving: asyncio.Task[None] | None = None
        self._passes_per_second = 100_000.0  # a cautious first guess, replaced by what is measured
        self.queued = 0  # passes admitted and not yet answered

    def admit(self, cost: int, *, beside: int = 0) -> "Admission":
        """Counts a request's cost, in passes, while the `with` block lasts: until it is answered.

        A request must leave room for twenty of its cost: where many ask for much, each of them
        would wait for all others, and so would those who ask for little. An eighth of the limit is
        open to every request; one that costs more than the whole limit would never fit otherwise.

        Args:
            cost: of what the batcher computes.
            beside: of what another thread does for the request before: it counts as queued, but
                needs no room for others like it.

        Raises:
            ApiError: overloaded, too much is queued already.
            ApiError: not_ready, the server is stopping.
        """
        self.check(cost)
        return Admission(self, cost + beside)

    def check(self, cost: int) -> None:
        """As `admit`, but admits nothing: for what is known of a request before it is read.

        Raises:
            ApiError: overloaded, too much is queued already.
            ApiError: not_ready, the server is stopping.
        """
        if self._is_closed:
            raise ApiError(ErrorCode.NOT_READY)
        room = min(_ROOM * cost, self._most_room)
        if self.queued and self.queued + room > self._max_queued:
            seconds = max(1, math.ceil(self.queued / self._passes_per_second))
            raise ApiError(ErrorCode.OVERLOADED, headers={"Retry-After": str(seconds)})

    def count(self, cost: int) -> None:
        """Adds to what is queued; negative where something is answered."""
        self.queued += cost
        if self._note_queued is not None:
            self._note_queued(cost)
        if self.queued:
            self._idle.clear()
        else:
            self._note_if_idle()

    async def run(self, works: Sequence[W], deadline: float, times: Timings) -> list[R | Exception]:
        """Computes works; the answers come in their order, an exception where a work failed.

        Cancelling the call drops what is not computed yet.

        Args:
            works: one request's.
            deadline: on the batcher's clock; what is not computed by then ends with
                deadline_exceeded.
            times: the request's; the seconds of the rounds that it was in are added.

        Raises:
            ApiError: not_ready, the batcher was closed, and its time to finish is over.
        """
        if not works:
            return []
        job = self._enqueue(works, deadline)
        try:
            await job.done
        finally:
            job.open.clear()
            times.compute += job.computing_seconds
        return [_settled(answer) for answer in job.answers]

    async def stream(self, work: W, deadline: float, times: Timings) -> AsyncGenerator[R, None]:
        """Computes one work and yields its intermediate answers, then the final one; see `run`.

        Raises:
            Exception: what the work failed with; also deadline_exceeded.
        """
        job = self._enqueue([work], deadline)
        events: asyncio.Queue[R | None] = asyncio.Queue()
        job.events = events
        try:
            while (event := await events.get()) is not None:
                yield event
        finally:
            job.open.clear()
            times.compute += job.computing_seconds
        answer = _settled(job.answers[0])
        if isinstance(answer, Exception):
            raise answer
        yield answer

    async def close(self, seconds: float) -> None:
        """Takes nothing more, finishes what is admitted, and answers the rest after `seconds`."""
        self._is_closed = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), seconds)
        self._is_stopped = True
        self._fail_all(ApiError(ErrorCode.NOT_READY))
        if self._serving is not None:
            self._serving.cancel()

    def _enqueue(self, works: Sequence[W], deadline: float) -> _Job[W, F, R]:
        if self._is_stopped:
            raise ApiError(ErrorCode.NOT_READY)
        loop = asyncio.get_running_loop()
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve(), name="batcher")
        job: _Job[W, F, R] = _Job(works, deadline, loop.create_future())
        self._jobs.append(job)
        self._idle.clear()
        self._wake.set()
        return job

    async def _serve(self) -> None:
        try:
            while True:
                try:
                    self._drop_ended()
                    if self._jobs:
                        self._run_round(self._fill_round())
                except Exception as error:  # a defect here must not leave callers waiting for ever
                    logger.exception("the batcher failed")
                    self._fail_all(_as_internal(error))
                if not self._jobs:
                    self._note_if_idle()
                    self._wake.clear()
                    await self._wake.wait()
                # Whatever arrived meanwhile is read now, and can be in the next round.
                await asyncio.sleep(0)
        finally:  # neither must the end of this task; the next request starts another
            self._fail_all(ApiError(ErrorCode.NOT_READY))

    def _note_if_idle(self) -> None:
        if not self._jobs and not self.queued:
            self._idle.set()

    def _fail_all(self, error: Exception) -> None:
        for job in self._jobs:
            job.fail(error)
        self._jobs.clear()

    def _drop_ended(self) -> None:
        """Forgets jobs that are answered or whose caller went away, and ends the overdue."""
        now = self._clock()
        for job in self._jobs:
            if job.open and job.deadline <= now:
                self._answer(job.take_finished())
                job.fail(ApiError(ErrorCode.DEADLINE_EXCEEDED))
        if any(not job.open for job in self._jobs):
            self._jobs = deque(job for job in self._jobs if job.open)

    def _fill_round(self) -> list[tuple[_Job[W, F, R], int, W, int]]:
        """Works for one round: job, place in its answers, work, and passes."""
        batch: list[tuple[_Job[W, F, R], int, W, int]] = []
        free = self._round_passes
        for job in list(self._jobs):
            if free <= 0:
                break
            for index, work in job.open.items():
                if free <= 0:
                    break
                passes = min(work.remaining, work.largest_step)
                if passes > free:
                    if batch and passes <= self._round_passes:
                        free = 0  # a step costs more in two rounds than in one: it can wait
                        break
                    passes = free
                batch.append((job, index, work, passes))
                free -= passes + self._work_overhead
                job.spent += passes
            if job.spent >= self._share_passes:
                job.spent = 0
                self._jobs.remove(job)
                self._jobs.append(job)
        return batch

    def _run_round(self, batch: Sequence[tuple[_Job[W, F, R], int, W, int]]) -> None:
        started = self._clock()
        jobs = list({id(job): job for job, *_ in batch}.values())
        pending: list[tuple[_Job[W, F, R], int, W, F]] = []
        outcomes = self._in_parts(self._step, [(work, passes) for _, _, work, passes in batch])
        for (job, index, work, _), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                job.answers[index] = outcome
                del job.open[index]
            elif outcome.is_finished:
                assert outcome.found is not None, "a work ended with nothing found"
                job.finished.append((index, work, outcome.found))
                del job.open[index]
            elif outcome.found is not None and job.events is not None:
                pending.append((job, index, work, outcome.found))
        for job in jobs:
            if not job.open or len(job.finished) >= _ANSWERED_TOGETHER:
                pending.extend(job.take_finished())
        self._answer(pending)
        for job in jobs:
            if not job.open:
                job.finish()
        seconds = self._clock() - started
        for job in jobs:
            job.computing_seconds += seconds
        if seconds > 0:
            rate = sum(passes for *_, passes in batch) / seconds
            self._passes_per_second += 0.05 * (rate - self._passes_per_second)

    def _answer(self, pending: "Sequence[tuple[_Job[W, F, R], int, W, F]]") -> None:
        found = [(work, found) for _, _, work, found in pending]
        answers = self._in_parts(self._make_answers, found) if found else ()
        for (job, index, _, _), answer in zip(pending, answers, strict=True):
            if index not in job.open:
                job.answers[index] = answer
            elif isinstance(answer, Exception):  # of an intermediate answer: it is the last
                job.answers[index] = answer
                del job.open[index]
            elif job.events is not None:
                job.events.put_nowait(answer)

    def _in_parts(
        self, function: Callable[[Sequence[A]], Sequence[B | Exception]], batch: Sequence[A]
    ) -> Sequence[B | Exception]:
        """Calls the function; where it fails, once more for each piece of work alone."""
        try:
            results = function(batch)
            if len(results) != len(batch):
                raise WrongLengthError(f"{len(batch)} works gave {len(results)} results")
        except Exception as error:
            if len(batch) == 1:
                logger.exception("a piece of work failed")
                return [_as_internal(error)]
            # One of them is to blame, and the others shall not suffer.
            return [result for each in batch for result in self._in_parts(function, [each])]
        return results


class Admission:
    """A request's cost, counted from entering to leaving the block."""

    def __init__(self, batcher: Batcher[Any, Any, Any], cost: int) -> None:
        self._batcher = batcher
        self._cost = cost

    def __enter__(self) -> None:
        self._batcher.count(self._cost)

    def __exit__(self, *_: object) -> None:
        self._batcher.count(-self._cost)


def _as_internal(error: Exception) -> ApiError:
    internal = ApiError(ErrorCode.INTERNAL)
    internal.__cause__ = error
    return internal


def _settled(answer: "R | Exception | None") -> "R | Exception":
    assert answer is not None, "a job ended with an open answer"
    return answer
