"""Jobs whose answers depend on what was computed, a step that adds, and a clock moved by hand."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from app.inference.backlog import Charge
from app.inference.scheduler import Scheduler

NEVER = math.inf
# A test that would wait longer than this has found a caller who waits for ever.
PATIENCE_SECONDS = 20.0
# A pass takes a second, so that these are both passes and seconds.
ROUND, SHARE = 100, 300
MAX_WAIT = 10_000
Answer = tuple[int, int]


@dataclass(eq=False)
class Sum:
    """A job whose answer has its number, and shows that each of its passes was computed once."""

    number: int
    passes: int
    stride: int = 1_000_000  # a step ends after a multiple of this
    is_streamed: bool = False
    is_failing: bool = False
    is_unanswerable: bool = False
    done: int = 0
    total: int = 0

    @property
    def is_finished(self) -> bool:
        return self.done == self.passes

    @property
    def has_partial_result(self) -> bool:
        return self.is_streamed and self.done % self.stride == 0

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
        steps: number of the job and passes of each call.
        before: called with the number of each call, from 0, before anything is computed.
    """

    clock: Clock = field(default_factory=Clock)
    seconds_per_pass: float = 1.0
    before: Callable[[int], object] = lambda number: None
    steps: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, job: Sum, passes: int) -> int:
        assert passes > 0
        stop = min(job.done + passes, job.done - job.done % job.stride + job.stride, job.passes)
        passes = stop - job.done
        number = len(self.steps)
        self.steps.append((job.number, passes))
        self.before(number)
        if job.is_failing:
            self.clock.now += 1
            raise ValueError("this step cannot be computed")
        self.clock.now += passes * self.seconds_per_pass
        job.total += sum(pass_value(job.number, index) for index in range(job.done, stop))
        job.done = stop
        return passes

    def make_answer(self, job: Sum) -> Answer:
        if job.is_unanswerable:
            raise ValueError("this answer cannot be made")
        return job.number, job.total

    @property
    def passes(self) -> int:
        return sum(passes for _, passes in self.steps)

    def passes_of(self, number: int) -> int:
        return sum(passes for each, passes in self.steps if each == number)


def make_scheduler(step: Adder, **options: Any) -> Scheduler[Sum, Answer]:
    return Scheduler(
        step,
        step.make_answer,
        round_seconds=ROUND,
        share_seconds=SHARE,
        passes_per_second=1.0,
        clock=step.clock,
        **{"max_wait_seconds": MAX_WAIT, **options},
    )


@asynccontextmanager
async def serving(step: Adder, **options: Any) -> AsyncGenerator[Scheduler[Sum, Answer], None]:
    scheduler = make_scheduler(step, **options)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            yield scheduler
    finally:
        await scheduler.close(0)


async def answers_of(
    scheduler: Scheduler[Sum, Answer], jobs: Sequence[Sum], deadline: float = NEVER
) -> list[Answer | Exception]:
    """The answers to a request that nothing refuses."""
    with charge(scheduler, jobs) as own:
        return (await scheduler.run(jobs, deadline, own))[0]


def charge(scheduler: Scheduler[Sum, Answer], jobs: Sequence[Sum]) -> Charge:
    return Charge(scheduler.backlog, sum(job.passes for job in jobs))


Running = asyncio.Task[list[Answer | Exception]]


def ask(scheduler: Scheduler[Sum, Answer], *jobs: Sum, deadline: float = NEVER) -> Running:
    """A request of its own, queued by the next turn of the event loop."""
    return asyncio.create_task(answers_of(scheduler, jobs, deadline))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
