"""Jobs whose answers depend on what was computed, a step that adds, and a clock moved by hand."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.inference.scheduler import Scheduler

NEVER = math.inf
# A test that would wait longer than this has found a caller who waits for ever.
PATIENCE_SECONDS = 20.0
ROUND, SHARE, OVERHEAD, MOST_QUEUED = 100, 300, 10, 10_000
Answer = tuple[int, int]


@dataclass(eq=False)
class Sum:
    """A job whose answer has its number, and shows that each of its passes was computed once."""

    number: int
    passes: int
    largest_step: int = 1_000_000
    is_streamed: bool = False
    is_failing: bool = False  # makes the whole step fail
    is_unanswerable: bool = False  # makes all answers fail that are made with its own
    done: int = 0
    total: int = 0

    @property
    def remaining(self) -> int:
        return self.passes - self.done

    @property
    def is_finished(self) -> bool:
        return self.remaining == 0

    @property
    def has_partial_result(self) -> bool:
        return self.is_streamed

    @property
    def right(self) -> Answer:
        return self.number, sum(pass_value(self.number, index) for index in range(self.passes))


def pass_value(number: int, index: int) -> int:
    """Of one pass: different for every job and pass."""
    return hash((number, index)) % 1_000_003


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Adder:
    """The step: adds up passes, and takes time to do so.

    Attributes:
        rounds: number and passes of the jobs in each call.
        before: called with the number of each call, from 0, before anything is computed.
        answered: whose answers were made in each call.
        alter_answers: what becomes of the right answers.
    """

    clock: Clock = field(default_factory=Clock)
    seconds_per_pass: float = 0.001
    before: Callable[[int], object] = lambda number: None
    rounds: list[list[tuple[int, int]]] = field(default_factory=list)
    alter_answers: Callable[[list[Any]], Any] = lambda answers: answers
    answered: list[list[int]] = field(default_factory=list)

    def __call__(self, batch: Sequence[tuple[Sum, int]]) -> None:
        number = len(self.rounds)
        self.rounds.append([(job.number, passes) for job, passes in batch])
        self.before(number)
        if any(job.is_failing for job, _ in batch):
            raise ValueError("this batch cannot be computed")
        for job, passes in batch:
            assert 0 < passes <= min(job.remaining, job.largest_step)
            self.clock.now += passes * self.seconds_per_pass
            for index in range(job.done, job.done + passes):
                job.total += pass_value(job.number, index)
            job.done += passes

    def make_answers(self, jobs: Sequence[Sum]) -> Any:
        self.answered.append([job.number for job in jobs])
        if any(job.is_unanswerable for job in jobs):
            raise ValueError("these answers cannot be made")
        return self.alter_answers([(job.number, job.total) for job in jobs])

    @property
    def passes(self) -> int:
        return sum(passes for batch in self.rounds for _, passes in batch)


@asynccontextmanager
async def serving(
    step: Adder, *, max_queued: int = MOST_QUEUED
) -> AsyncGenerator[Scheduler[Sum, Answer], None]:
    scheduler: Scheduler[Sum, Answer] = Scheduler(
        step,
        step.make_answers,
        round_passes=ROUND,
        share_passes=SHARE,
        job_overhead=OVERHEAD,
        max_queued=max_queued,
        clock=step.clock,
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield scheduler
    finally:
        await scheduler.close(0)


async def answers_of(
    scheduler: Scheduler[Sum, Answer], jobs: Sequence[Sum], deadline: float = NEVER
) -> list[Answer | Exception]:
    return (await scheduler.run(jobs, deadline))[0]


Running = asyncio.Task[list[Answer | Exception]]


def ask(scheduler: Scheduler[Sum, Answer], *jobs: Sum, deadline: float = NEVER) -> Running:
    """A request of its own, queued by the next turn of the event loop."""
    return asyncio.create_task(answers_of(scheduler, jobs, deadline))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
