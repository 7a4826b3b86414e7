"""Shares one engine among requests: computes for the smallest, and never waits.

A request brings one or many jobs, one for each image. The engine computes one step of one job at a
time. The number of its passes follows from their measured speed, so that a step is short enough to
run on the event loop, which gets some turns after each round of steps and the answers due by then.
Smaller requests come first, the oldest has its share of the time, and requests of one size take
turns; see `backlog`. Waiting for company would only add its delay: a pass costs the same in any.

This module knows asyncio and a clock. What a job computes is known to two functions only.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Generic

from app.errors import ApiError, ErrorCode
from app.inference.backlog import SIZES, Backlog, Charge, Expected
from app.inference.queued import J, QueuedRequest, R

logger = logging.getLogger("dropserve")

# Of the event loop after each round. From its arrival a request takes several turns to come here,
# see `Cohort`, and some to be answered: with one turn a round it would wait for a round at each.
TURNS_OF_A_ROUND = 8
# Of the latest step in the exponential moving average of their speed.
_WEIGHT = 0.05
# The longest round, over the usual one.
_MOST_ROUNDS = 5
# The same while requests are refused: many in one turn take less time than one in each of many, and
# those that come meanwhile need not wait for another round to be refused.
_REFUSING_ROUNDS = 18

# Computes passes of the job of about the cost that is given; returns what they cost.
Step = Callable[[J, int], int]
# Makes the answer of a job from the passes computed so far.
MakeAnswer = Callable[[J], R]


class Scheduler(Generic[J, R]):
    """Runs jobs in rounds on the running event loop.

    Args:
        step: computes; called on the event loop.
        make_answer: called when a job is finished, or a partial result is due.
        round_seconds: of steps, after which the event loop gets its turn.
        share_seconds: of its steps, after which a request goes behind the others of its size.
        max_wait_seconds: the longest predicted wait of a request that is admitted.
        job_cost: of a job besides its passes, in passes.
        note_queued: called with each change of what is admitted, in passes.
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
        max_wait_seconds: float,
        job_cost: int = 0,
        note_queued: Callable[[int], None] | None = None,
        passes_per_second: float = 100_000.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._step = step
        self._make_answer = make_answer
        self._round_seconds = round_seconds
        self._share_seconds = share_seconds
        self._max_wait_seconds = max_wait_seconds
        self._job_cost = job_cost
        self._clock = clock
        # What is admitted and not computed yet, and with it for a moment what is let in.
        self.backlog = Backlog(passes_per_second, note_queued)
        self.expected = Expected()
        self._requests: deque[QueuedRequest[J, R]] = deque()  # the oldest first
        self._sizes: list[deque[QueuedRequest[J, R]]] = [deque() for _ in range(SIZES)]
        # Whose answers are due after the steps of this round, with what a job failed with.
        self._due: list[tuple[QueuedRequest[J, R], J, ApiError | None]] = []
        self._answer_seconds = 0.0  # exponential moving average, of making an answer
        self._round_ended: float | None = None  # None: there was nothing more to do
        self._is_refusing = False  # since the latest round
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_closed = False  # admits nothing more
        self._is_stopped = False  # computes nothing more
        self._serving: asyncio.Task[None] | None = None
        self._passes_per_second = passes_per_second
        self._admitted = 0

    @property
    def queued(self) -> int:
        """Passes admitted and not computed yet."""
        return self.backlog.total

    @property
    def most_queued(self) -> int:
        """Passes that are computed in the longest wait, at the measured pace."""
        return round(self._max_wait_seconds * self.backlog.pace)

    def check(self, cost: int, *, before: float = 0.0, timeout: float = math.inf) -> None:
        """Refuses what `admit` would refuse; admits nothing.

        Args:
            cost: of what the scheduler computes, in passes.
            before: seconds that the request waits before it comes to the scheduler.
            timeout: seconds after which nobody wants the answer.

        Raises:
            ApiError: overloaded, the predicted wait is too long;
                not_ready, the server is stopping.
        """
        if self._is_closed:
            raise ErrorCode.NOT_READY()
        if (wait := self.wait_if_too_long(cost, before, timeout)) is not None:
            seconds = str(-(-wait // 1000))
            headers = {"Retry-After": seconds, "Retry-After-Ms": str(wait)}
            raise ErrorCode.OVERLOADED(headers=headers)

    def wait_if_too_long(self, cost: int, before: float, timeout: float) -> int | None:
        """Milliseconds that a request would wait, if that is too long; see `check`."""
        wait = before + self.backlog.wait(cost)
        if self._is_closed or (wait <= self._max_wait_seconds and wait <= timeout):
            return None
        self._is_refusing = True
        return math.ceil(1000 * wait)

    def admit(self, cost: int, *, before: float = 0.0, timeout: float = math.inf) -> Charge:
        """Counts a request's cost, as far as it is not computed, while the `with` block lasts.

        Args and Raises: see `check`.
        """
        self.check(cost, before=before, timeout=timeout)
        return Charge(self.backlog, cost, self._count_admitted)

    def _count_admitted(self, change: int) -> None:
        self._admitted += change
        if change > 0:
            self._idle.clear()
        else:
            self._note_if_idle()

    async def run(
        self, jobs: Sequence[J], deadline: float, charge: Charge
    ) -> tuple[list[R | Exception], float]:
        """Computes the jobs of one request.

        Cancelling the call drops what is not computed yet.

        Args:
            jobs: one for each answer.
            deadline: on the scheduler's clock. Jobs that are not computed by then end with
                deadline_exceeded.
            charge: what the request was admitted with.

        Returns:
            The answers in the order of the jobs, an exception where a job failed; and the seconds
            that they were computed.

        Raises:
            ApiError: not_ready, the scheduler was closed and its time to finish is over.
        """
        if not jobs:
            return [], 0.0
        request = self._enqueue(jobs, deadline, charge)
        try:
            await request.done
        finally:
            request.open.clear()
        return request.answers, request.seconds

    async def stream(
        self, job: J, deadline: float, charge: Charge
    ) -> AsyncGenerator[tuple[R, float], None]:
        """Computes one job and yields its partial results, then its answer; see `run`.

        Each comes with the seconds that the job was computed so far.

        Raises:
            Exception: what the job failed with; also ApiError, deadline_exceeded.
        """
        request = self._enqueue([job], deadline, charge)
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

    def _enqueue(self, jobs: Sequence[J], deadline: float, charge: Charge) -> QueuedRequest[J, R]:
        if self._is_stopped:
            raise ErrorCode.NOT_READY()
        loop = asyncio.get_running_loop()
        if self._serving is None or self._serving.done():
            self._serving = loop.create_task(self._serve(), name="scheduler")
        request: QueuedRequest[J, R] = QueuedRequest(jobs, deadline, charge, loop.create_future())
        self._requests.append(request)
        self._sizes[charge.size].append(request)
        self._idle.clear()
        self._wake.set()
        return request

    async def _serve(self) -> None:
        self._round_ended = None
        try:
            while True:
                try:
                    self._run_round()
                except Exception as error:  # a defect here must not leave callers waiting for ever
                    self._fail_all(_internal("the scheduler", error))
                if self._requests:
                    for _ in range(TURNS_OF_A_ROUND):
                        await asyncio.sleep(0)
                    continue
                self._round_ended = None
                self._note_if_idle()
                self._wake.clear()
                await self._wake.wait()
        finally:  # neither must the end of this task; the next request starts another
            self._fail_all(ErrorCode.NOT_READY())

    def _note_if_idle(self) -> None:
        if not self._requests and not self._admitted:
            self._idle.set()

    def _fail_all(self, error: Exception) -> None:
        for request, _, _ in self._due:
            request.answers.append(error)
            request.finish()
        self._due.clear()
        for request in self._requests:
            request.fail(error)
        self._requests.clear()

    def _run_round(self) -> None:
        started = now = self._clock()
        since = started if self._round_ended is None else self._round_ended
        cost = 0
        # As long as others had the event loop, so that these, and refusals, cannot starve it.
        longest = _MOST_ROUNDS * self._round_seconds
        round_seconds = max(self._round_seconds, min(started - since, longest))
        if self._is_refusing:
            round_seconds, self._is_refusing = _REFUSING_ROUNDS * self._round_seconds, False
        self._drop_ended(now)
        while (smallest := self._smallest()) is not None:
            if now - started + len(self._due) * self._answer_seconds >= round_seconds:
                break
            oldest = _first_open(self._requests) or smallest
            is_larger = oldest.charge.size > smallest.charge.size
            request = oldest if is_larger and self.backlog.takes_oldest else smallest
            passes = self._take_step(request)
            before, now = now, self._clock()
            seconds = now - before
            request.seconds += seconds
            request.spent += seconds
            if passes and seconds > 0:
                self._passes_per_second += _WEIGHT * (passes / seconds - self._passes_per_second)
            if is_larger:
                self.backlog.take(passes, of_oldest=request is oldest)
            cost += passes
            if not request.done_of_job:
                cost += self._job_cost
            same_size = self._sizes[request.charge.size]
            if not request.open:
                _first_open(same_size)
            elif request.spent >= self._share_seconds:
                request.spent = 0.0
                if same_size[0] is request:
                    same_size.rotate(-1)
            if request.events is not None:
                break  # its reader gets each partial result while the next is computed
        self._answer_due()
        _first_open(self._requests)
        self._round_ended = self._clock()
        self.backlog.measure(cost, self._round_ended - since)

    def _smallest(self) -> QueuedRequest[J, R] | None:
        for requests in self._sizes:
            if requests and (first := _first_open(requests)) is not None:
                return first
        return None

    def _drop_ended(self, now: float) -> None:
        """Ends the overdue requests; forgets them, and those whose caller went away."""
        for request in self._requests:
            if request.deadline <= now:
                request.fail(ErrorCode.DEADLINE_EXCEEDED())
        self._requests = deque(request for request in self._requests if request.open)

    def _take_step(self, request: QueuedRequest[J, R]) -> int:
        """Computes a step of the first open job, and notes whether an answer is due.

        Returns:
            The number of passes computed; 0 if the job failed.
        """
        job, passes = request.open[0], 0
        failure: ApiError | None = None
        try:
            passes = self._step(job, max(1, round(self._passes_per_second * self._round_seconds)))
            request.settle(request.done_of_job + passes)
        except Exception as error:
            failure = _internal("a job", error)
        if job.is_finished or failure is not None:
            request.open.popleft()
            request.settle(0)
            self._due.append((request, job, failure))
        elif job.has_partial_result and request.events is not None:
            self._due.append((request, job, None))
        return passes

    def _answer_due(self) -> None:
        """Makes the answers that are due after a round's steps, all in a row; see `Cohort`."""
        before = self._clock()
        for request, job, failure in self._due:
            answer: R | ApiError
            try:
                answer = failure or self._make_answer(job)
            except Exception as error:
                answer = _internal("a job", error)
            if job.is_finished or failure is not None:
                request.answers.append(answer)
            elif isinstance(answer, ApiError):
                request.fail(answer)
            elif request.events is not None:
                request.events.put_nowait(answer)
            now = self._clock()
            request.seconds += now - before
            self._answer_seconds += _WEIGHT * (now - before - self._answer_seconds)
            before = now
        for request, _, _ in self._due:
            if not request.open:
                request.finish()
        self._due.clear()


def _first_open(requests: deque[QueuedRequest[J, R]]) -> QueuedRequest[J, R] | None:
    """The first that has anything left to compute; drops those before it."""
    while requests and not requests[0].open:
        requests.popleft()
    return requests[0] if requests else None


def _internal(failed: str, error: Exception) -> ApiError:
    logger.error("%s failed", failed, exc_info=error)
    internal = ErrorCode.INTERNAL()
    internal.__cause__ = error
    return internal
