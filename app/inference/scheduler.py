"""Shares one engine among requests: takes the queued jobs when it is free, and never waits.

A request brings one or many jobs, one for each image. The engine computes in rounds, short enough
to run on the event loop. A round is filled from the queue, oldest request first, with jobs of as
many requests as fit. A request that has had its share goes to the back, so that a large batch does
not hold up small requests. Waiting for company would only add its delay: a round costs less.

Passes and answers are computed separately, and answers many at a time: each kind of work finds its
data in the processor's caches, where alternating would evict the other's.

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
# At most this many answers of one request are made at a time, which takes half a millisecond.
_ANSWERED_TOGETHER = 32


class Job(Protocol):
    """The computation of one image, in steps."""

    @property
    def remaining(self) -> int:
        """Passes still to compute."""

    @property
    def largest_step(self) -> int:
        """The most passes that one step should take."""

    @property
    def is_finished(self) -> bool:
        """Whether its answer can be made."""

    @property
    def has_partial_result(self) -> bool:
        """Whether a partial result is wanted after each step."""


J = TypeVar("J", bound=Job)
R = TypeVar("R")

# Computes one step of each job, of at most the given number of passes. A step that raises leaves
# its jobs as they were.
Step = Callable[[Sequence[tuple[J, int]]], None]
# Makes the answer of each job from the passes computed so far. An exception in place of an answer
# concerns that job alone.
MakeAnswers = Callable[[Sequence[J]], Sequence[R | Exception]]


class _Request(Generic[J, R]):
    """The jobs of one request, in the order of its answers."""

    def __init__(self, jobs: Sequence[J], deadline: float, done: "asyncio.Future[None]") -> None:
        self.open = dict(enumerate(jobs))
        self.finished: list[tuple[int, J]] = []  # not answered yet
        self.answers: list[R | Exception | None] = [None] * len(jobs)
        self.deadline = deadline
        self.done = done
        self.events: asyncio.Queue[R | None] | None = None  # None in it is the end
        self.spent = 0  # passes since it was last put at the back
        self.seconds = 0.0  # of the rounds that it was in

    def take_finished(self) -> "list[tuple[_Request[J, R], int, J]]":
        """The jobs that are computed and not answered yet; the caller answers them."""
        taken = [(self, index, job) for index, job in self.finished]
        self.finished.clear()
        return taken

    def fail(self, error: Exception) -> None:
        """Ends every job that is not answered yet with the error."""
        for index in (*self.open, *(index for index, _ in self.finished)):
            self.answers[index] = error
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
        step: computes; called on the event loop, so a round must be short.
        make_answers: called after a round.
        round_passes: passes in a round.
        share_passes: passes after which a request goes to the back of the queue.
        job_overhead: what a job costs in a round in addition to its passes, in passes.
        max_queued: passes that may be admitted at a time.
        note_queued: called with each change of the queue, in passes.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        step: Step[J],
        make_answers: MakeAnswers[J, R],
        *,
        round_passes: int,
        share_passes: int,
        job_overhead: int,
        max_queued: int,
        note_queued: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._make_answers = make_answers
        self._round_passes = round_passes
        self._share_passes = share_passes
        self._job_overhead = job_overhead
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
        self._passes_per_second = 100_000.0  # a cautious first guess, replaced by measurements
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
            of the rounds that the request was in.

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
        return [_settled(answer) for answer in request.answers], request.seconds

    async def stream(self, job: J, deadline: float) -> AsyncGenerator[tuple[R, float], None]:
        """Computes one job and yields its partial results, then its answer; see `run`.

        Each comes with the seconds of the rounds that the request was in so far.

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
        answer = _settled(request.answers[0])
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
                    self._drop_ended()
                    if self._requests:
                        self._run_round(self._fill_round())
                except Exception as error:  # a defect here must not leave callers waiting for ever
                    logger.exception("the scheduler failed")
                    self._fail_all(_as_internal(error))
                if not self._requests:
                    self._note_if_idle()
                    self._wake.clear()
                    await self._wake.wait()
                # Requests that arrived meanwhile are read now, and can be in the next round.
                await asyncio.sleep(0)
        finally:  # neither must the end of this task; the next request starts another
            self._fail_all(ErrorCode.NOT_READY())

    def _note_if_idle(self) -> None:
        if not self._requests and not self.queued:
            self._idle.set()

    def _fail_all(self, error: Exception) -> None:
        for request in self._requests:
            request.fail(error)
        self._requests.clear()

    def _drop_ended(self) -> None:
        """Forgets requests that are answered or whose caller went away; ends the overdue."""
        now = self._clock()
        for request in self._requests:
            if request.open and request.deadline <= now:
                self._answer(request.take_finished())
                request.fail(ErrorCode.DEADLINE_EXCEEDED())
        if any(not request.open for request in self._requests):
            self._requests = deque(request for request in self._requests if request.open)

    def _fill_round(self) -> list[tuple[_Request[J, R], int, J, int]]:
        """Jobs for one round: request, place in its answers, job, and passes."""
        batch: list[tuple[_Request[J, R], int, J, int]] = []
        free = self._round_passes
        for request in list(self._requests):
            if free <= 0:
                break
            for index, job in request.open.items():
                if free <= 0:
                    break
                passes = min(job.remaining, job.largest_step)
                if passes > free:
                    if batch and passes <= self._round_passes:
                        free = 0  # a step costs more in two rounds than in one: it can wait
                        break
                    passes = free
                batch.append((request, index, job, passes))
                free -= passes + self._job_overhead
                request.spent += passes
            if request.spent >= self._share_passes:
                request.spent = 0
                self._requests.remove(request)
                self._requests.append(request)
        return batch

    def _run_round(self, batch: Sequence[tuple[_Request[J, R], int, J, int]]) -> None:
        started = self._clock()
        requests = list({id(request): request for request, *_ in batch}.values())
        pending: list[tuple[_Request[J, R], int, J]] = []
        failures = self._compute([(job, passes) for *_, job, passes in batch])
        for (request, index, job, _), failure in zip(batch, failures, strict=True):
            if failure is not None:
                request.answers[index] = failure
                del request.open[index]
            elif job.is_finished:
                request.finished.append((index, job))
                del request.open[index]
            elif job.has_partial_result and request.events is not None:
                pending.append((request, index, job))
        for request in requests:
            if not request.open or len(request.finished) >= _ANSWERED_TOGETHER:
                pending.extend(request.take_finished())
        self._answer(pending)
        seconds = self._clock() - started
        for request in requests:
            request.seconds += seconds
            if not request.open:
                request.finish()
        if seconds > 0:
            rate = sum(passes for *_, passes in batch) / seconds
            self._passes_per_second += 0.05 * (rate - self._passes_per_second)

    def _compute(self, batch: Sequence[tuple[J, int]]) -> Sequence[Exception | None]:
        """Takes a step of each job; where it fails, once more for each job alone."""
        try:
            self._step(batch)
        except Exception as error:
            if len(batch) == 1:
                logger.exception("a job failed")
                return [_as_internal(error)]
            # One of them is to blame, and the others must not suffer.
            return [failure for each in batch for failure in self._compute([each])]
        return [None] * len(batch)

    def _answer(self, pending: "Sequence[tuple[_Request[J, R], int, J]]") -> None:
        answers = self._made([job for *_, job in pending]) if pending else ()
        for (request, index, _), answer in zip(pending, answers, strict=True):
            if index not in request.open:
                request.answers[index] = answer
            elif isinstance(answer, Exception):  # of a partial result: it is the last
                request.answers[index] = answer
                del request.open[index]
            elif request.events is not None:
                request.events.put_nowait(answer)

    def _made(self, jobs: Sequence[J]) -> Sequence[R | Exception]:
        """The answers of the jobs; where that fails, each job's alone."""
        try:
            answers = self._make_answers(jobs)
            if len(answers) != len(jobs):
                raise RuntimeError(f"{len(jobs)} jobs gave {len(answers)} answers")
        except Exception as error:
            if len(jobs) == 1:
                logger.exception("an answer could not be made")
                return [_as_internal(error)]
            return [answer for each in jobs for answer in self._made([each])]
        return answers


def _as_internal(error: Exception) -> ApiError:
    internal = ErrorCode.INTERNAL()
    internal.__cause__ = error
    return internal


def _settled(answer: "R | Exception | None") -> "R | Exception":
    assert answer is not None, "a request ended with an open answer"
    return answer
