"""The scheduler alone: a step whose answers depend on what it was given, and a clock that it moves.

Each fault that other servers' schedulers had is a test: lost callers, exchanged rows, a scheduler
that died and was still asked, waiting for company. Deadlines, admission, streams and closing are in
`test_scheduler_limits.py`.
"""

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError, ErrorCode
from app.inference.scheduler import TURNS_OF_A_ROUND, Scheduler
from tests.api_errors import is_error
from tests.app.inference.fake_jobs import (
    NEVER,
    ROUND,
    SHARE,
    Adder,
    Answer,
    Running,
    Sum,
    answers_of,
    ask,
    charge,
    serving,
    turns,
)

# Rounds and shares of time


@asynccontextmanager
async def turns_between(step: Adder) -> AsyncGenerator[list[int], None]:
    """The number of steps taken before each turn of the event loop."""
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(step.steps))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    yield seen
    looking.cancel()


async def test_one_job_is_computed_at_once_and_waits_for_no_company() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        request = ask(scheduler, Sum(1, 50))
        # No timer ends within so few turns of the event loop.
        await turns(3)

        assert step.steps == [(1, 50)]
        assert await request == [Sum(1, 50).right]


async def test_requests_share_a_round_until_its_time_is_over() -> None:
    step = Adder()
    async with serving(step) as scheduler, turns_between(step) as seen:
        jobs = [Sum(number, 25) for number in range(12)]
        requests = [ask(scheduler, job) for job in jobs]

        assert await asyncio.gather(*requests) == [[job.right] for job in jobs]

    assert step.steps == [(number, 25) for number in range(12)]
    assert set(seen) == {0, 4, 8, 12}


class Noting(Adder):
    """Notes steps and answers, of which each takes a round's time."""

    def __init__(self) -> None:
        self.log: list[str] = []
        super().__init__(before=lambda _: self.log.append("step"))

    def make_answer(self, job: Sum) -> Answer:
        self.log.append("answer")
        self.clock.now += ROUND
        return super().make_answer(job)


async def test_the_answers_of_a_round_are_made_after_its_steps() -> None:
    step = Noting()
    async with serving(step) as scheduler:
        await asyncio.gather(*(ask(scheduler, Sum(number, 5)) for number in range(3)))

    assert step.log == ["step"] * 3 + ["answer"] * 3


async def test_what_answers_take_is_of_a_round_as_steps_are() -> None:
    step = Noting()
    async with serving(step) as scheduler:
        for _ in range(100):
            await ask(scheduler, Sum(0, 5))  # so that it is known
        step.log.clear()
        await asyncio.gather(*(ask(scheduler, Sum(number, 5)) for number in range(3)))

    assert step.log == ["step", "answer"] * 3


async def test_the_event_loop_has_a_turn_between_any_two_rounds() -> None:
    step = Adder()
    async with serving(step) as scheduler, turns_between(step) as seen:
        await ask(scheduler, Sum(1, 20 * ROUND))

    assert step.steps == [(1, ROUND)] * 20
    assert set(seen) == set(range(21))


async def test_a_round_takes_as_long_as_others_had_the_event_loop() -> None:
    pause = [0] * (TURNS_OF_A_ROUND - 1)
    others = iter([0, 0, *pause, 3 * ROUND, *pause, 1_000_000])
    step = Adder()

    async def take_time() -> None:
        while True:
            step.clock.now += next(others, 0)
            await asyncio.sleep(0)

    async with serving(step) as scheduler, turns_between(step) as seen:
        busy = asyncio.create_task(take_time())
        await ask(scheduler, Sum(1, 50 * ROUND))
        busy.cancel()

    rounds = [after - before for before, after in itertools.pairwise(seen) if after > before]
    assert rounds[:4] == [1, 3, 5, 1]


async def test_what_comes_during_a_round_is_computed_in_the_next() -> None:
    late: list[Running] = []

    def arrive(number: int) -> None:
        if number == 0:
            late.append(ask(scheduler, Sum(2, 10)))

    step = Adder(before=arrive)
    async with serving(step) as scheduler, turns_between(step) as seen:
        await ask(scheduler, Sum(1, 150))
        assert await late[0] == [Sum(2, 10).right]

    assert step.steps == [(1, 100), (2, 10), (1, 50)]
    assert 2 not in seen


async def test_a_step_takes_no_more_than_the_job_wants() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        assert await ask(scheduler, Sum(1, 70, stride=32)) == [Sum(1, 70).right]

    assert step.steps == [(1, 32), (1, 32), (1, 6)]


@pytest.mark.parametrize(
    ("seconds_per_pass", "passes"), [(0.25, 400), (1.0, 100), (4.0, 25), (1000.0, 1)]
)
async def test_a_step_has_as_many_passes_as_take_a_round(
    seconds_per_pass: float, passes: int
) -> None:
    step = Adder(seconds_per_pass=seconds_per_pass)
    async with serving(step) as scheduler:
        answers = await ask(scheduler, *(Sum(1, 1000) for _ in range(60)))

    assert answers == [Sum(1, 1000).right] * 60
    *_, (_, latest), _ = step.steps  # the last step of a job may be shorter
    assert latest == pytest.approx(passes, rel=0.1)


async def test_a_clock_that_stands_still_says_nothing_about_the_speed() -> None:
    step = Adder(seconds_per_pass=0)
    async with serving(step) as scheduler:
        assert await ask(scheduler, Sum(1, 3 * ROUND)) == [Sum(1, 3 * ROUND).right]

    assert step.steps == [(1, ROUND)] * 3


async def test_steps_that_fail_say_nothing_about_the_speed() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        await ask(scheduler, *(Sum(1, 100, is_failing=True) for _ in range(60)))
        await ask(scheduler, Sum(2, 200))

    assert step.steps[-2:] == [(2, ROUND), (2, ROUND)]


async def test_the_oldest_request_is_answered_first() -> None:
    answered: list[int] = []

    async def note(request: Running, number: int) -> None:
        await request
        answered.append(number)

    async with serving(Adder()) as scheduler:
        requests = [ask(scheduler, Sum(number, 120)) for number in range(5)]
        await asyncio.gather(*(note(each, number) for number, each in enumerate(requests)))

    assert answered == [0, 1, 2, 3, 4]


LARGE_REQUESTS = {
    "one image with many passes": lambda: [Sum(1, 20 * SHARE)],
    "many images": lambda: [Sum(1, 50) for _ in range(100)],
}


@pytest.mark.parametrize("name", LARGE_REQUESTS)
async def test_a_small_request_waits_for_no_more_than_a_round_of_a_large_one(name: str) -> None:
    step = Adder()
    async with serving(step) as scheduler:
        large = ask(scheduler, *LARGE_REQUESTS[name]())
        await turns(4)
        begun = len(step.steps)
        small = ask(scheduler, Sum(2, 60))

        assert await small == [Sum(2, 60).right]

        assert begun > 0
        between = step.steps[begun : step.steps.index((2, 60))]
        assert sum(passes for _, passes in between) <= ROUND
        assert not large.done()
        await large


async def crowd(scheduler: Scheduler[Sum, Answer], other: Running) -> None:
    """Small requests, eight at any time, until the other is answered."""

    async def ask_again() -> None:
        while not other.done():
            await ask(scheduler, Sum(2, 50))

    await asyncio.gather(*(ask_again() for _ in range(8)))


async def test_the_oldest_request_has_a_quarter_of_the_time_however_many_small_ones_come() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        large = ask(scheduler, Sum(1, 20 * SHARE))
        await crowd(scheduler, large)
        assert await large == [Sum(1, 20 * SHARE).right]

    assert 0.7 < step.passes_of(2) / step.passes < 0.8


async def test_the_oldest_is_the_one_that_came_first_and_not_the_largest() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        first = ask(scheduler, Sum(1, 40 * SHARE))
        second = ask(scheduler, Sum(3, 20 * SHARE))
        await crowd(scheduler, first)
        assert step.passes_of(3) < step.passes_of(1) / 10
        await second


async def test_large_requests_take_turns() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        await asyncio.gather(*(ask(scheduler, Sum(number, 4 * SHARE)) for number in (1, 2, 3)))

    turn = SHARE // ROUND
    assert step.steps == [(number, ROUND) for number in (1, 2, 3) for _ in range(turn)] * 4


async def test_a_request_without_jobs_has_no_answers() -> None:
    async with serving(Adder()) as scheduler:
        with charge(scheduler, []) as own:
            assert await scheduler.run([], NEVER, own) == ([], 0.0)


async def test_a_run_returns_how_long_its_own_jobs_were_computed() -> None:
    one, two = [Sum(1, 60)], [Sum(2, 460), Sum(3, 20)]
    async with serving(Adder()) as scheduler:
        with charge(scheduler, one) as own, charge(scheduler, two) as others:
            (_, first), (_, second) = await asyncio.gather(
                scheduler.run(one, NEVER, own), scheduler.run(two, NEVER, others)
            )

    assert (first, second) == (60, 480)


# Every caller gets its own answers


@st.composite
def requests_of_jobs(draw: st.DrawFn) -> list[list[Sum]]:
    numbers = itertools.count()

    def draw_job() -> Sum:
        number = next(numbers)
        kind = draw(st.sampled_from(["right", "right", "right", "poison", "mute"]))
        return Sum(
            number,
            passes=draw(st.integers(1, 3 * ROUND)),
            stride=draw(st.sampled_from([1_000_000, 32, 5])),
            is_failing=kind == "poison",
            is_unanswerable=kind == "mute",
        )

    counts = draw(st.lists(st.integers(1, 8) | st.just(40), min_size=1, max_size=8))
    return [[draw_job() for _ in range(count)] for count in counts]


@given(requests_of_jobs())
@settings(deadline=None)  # the machine may be busy
async def test_every_caller_gets_its_own_answers_in_its_order(requests: list[list[Sum]]) -> None:
    async with serving(Adder()) as scheduler:
        answers = await asyncio.gather(*(ask(scheduler, *jobs) for jobs in requests))

    for jobs, own in zip(requests, answers, strict=True):
        assert len(own) == len(jobs)
        for job, answer in zip(jobs, own, strict=True):
            if job.is_failing or job.is_unanswerable:
                assert is_error(answer, ErrorCode.INTERNAL)
            else:
                assert answer == job.right


# One caller's cancellation


async def test_a_request_cancelled_before_its_turn_is_never_computed() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        first, second, third = (ask(scheduler, Sum(number, 150)) for number in (1, 2, 3))
        await turns(1)
        second.cancel()

        assert await first == [Sum(1, 150).right]
        assert await third == [Sum(3, 150).right]
        assert second.cancelled()

    assert {number for number, _ in step.steps} == {1, 3}


async def test_a_request_cancelled_between_rounds_is_computed_no_further() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        leaving = ask(scheduler, Sum(1, 50 * ROUND))
        staying = ask(scheduler, Sum(2, 4 * ROUND))
        await turns(TURNS_OF_A_ROUND + 2)
        assert len(step.steps) >= 2
        leaving.cancel()

        assert await staying == [Sum(2, 4 * ROUND).right]

    assert step.passes <= 6 * ROUND + 4 * ROUND


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_a_request_cancelled_during_its_round_harms_nobody(who: int) -> None:
    step = Adder(before=lambda _: requests[who].cancel())
    async with serving(step) as scheduler:
        requests = [ask(scheduler, Sum(number, 20)) for number in range(3)]
        answers = await asyncio.gather(*requests, return_exceptions=True)

        for number, answer in enumerate(answers):
            if number == who:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert answer == [Sum(number, 20).right]
        step.before = lambda _: None
        assert await ask(scheduler, Sum(9, 20)) == [Sum(9, 20).right]


# Failures


async def test_a_step_that_fails_fails_its_job_alone_and_the_next_one_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = Adder()
    async with serving(step) as scheduler:
        jobs = [Sum(1, 20), Sum(2, 20, is_failing=True), Sum(3, 20)]
        alone = [ask(scheduler, job) for job in jobs]
        together = ask(scheduler, Sum(4, 20), Sum(5, 20, is_failing=True), Sum(6, 20))
        rights: list[Answer | Exception] = []
        for answers in ([each for (each,) in await asyncio.gather(*alone)], await together):
            first, failed, third = answers
            assert is_error(failed, ErrorCode.INTERNAL)
            assert isinstance(failed, ApiError)
            assert isinstance(failed.__cause__, ValueError)
            rights.extend([first, third])
        assert rights == [Sum(number, 20).right for number in (1, 3, 4, 6)]
        assert step.steps == [(number, 20) for number in range(1, 7)]
        assert "this step cannot be computed" in caplog.text

        again = await asyncio.gather(*(ask(scheduler, Sum(number, 20)) for number in range(3)))
        assert again == [[Sum(number, 20).right] for number in range(3)]


def cancel(_: object) -> Any:
    raise asyncio.CancelledError


DEFECTS: list[tuple[Callable[[Adder], object], ErrorCode]] = [
    (lambda step: setattr(step.clock, "now", "midnight"), ErrorCode.INTERNAL),
    (lambda step: setattr(step, "before", cancel), ErrorCode.NOT_READY),
]


@pytest.mark.parametrize(("defect", "kind"), DEFECTS, ids=["the clock", "a cancelled step"])
async def test_whatever_breaks_every_caller_gets_an_error_and_the_next_request_is_served(
    defect: Callable[[Adder], object], kind: ErrorCode
) -> None:
    step = Adder()
    async with serving(step) as scheduler:
        assert await ask(scheduler, Sum(0, 20)) == [Sum(0, 20).right]
        defect(step)

        requests = [ask(scheduler, Sum(number, 20)) for number in range(3)]
        for own in await asyncio.gather(*requests):
            (answer,) = own
            assert is_error(answer, kind)

        step.before, step.clock.now = lambda _: None, 0.0
        assert await ask(scheduler, Sum(4, 20)) == [Sum(4, 20).right]


async def test_callers_do_not_wait_for_a_scheduler_that_was_killed() -> None:
    async with serving(Adder()) as scheduler:
        others = asyncio.all_tasks()
        request = ask(scheduler, Sum(1, 100 * ROUND))
        await turns(5)
        (task,) = asyncio.all_tasks() - others - {request}
        task.cancel()

        (answer,) = await request
        assert is_error(answer, ErrorCode.NOT_READY)
        assert await ask(scheduler, Sum(2, 20)) == [Sum(2, 20).right]


async def test_an_answer_that_cannot_be_made_fails_its_job_alone() -> None:
    async with serving(Adder()) as scheduler:
        jobs = [Sum(1, 20), Sum(2, 20, is_unanswerable=True), Sum(3, 20)]
        answers = await asyncio.gather(*(ask(scheduler, job) for job in jobs))

    assert answers[0] == [Sum(1, 20).right]
    assert answers[2] == [Sum(3, 20).right]
    assert is_error(answers[1][0], ErrorCode.INTERNAL)


# All at once


async def test_ten_thousand_requests_with_cancellations_and_failing_steps() -> None:
    chance = random.Random(0)
    unlucky: set[int] = set()

    def fail_one_in_a_hundred(_: int) -> None:
        if chance.random() < 0.01:
            unlucky.add(step.steps[-1][0])
            raise ValueError("this step fails")

    step = Adder(before=fail_one_in_a_hundred)
    cancelled: set[int] = set()

    async def request(number: int) -> list[Answer | Exception] | None:
        jobs = [Sum(number, chance.randint(1, 60)) for _ in range(chance.choice([1, 1, 1, 2, 5]))]
        running = asyncio.create_task(answers_of(scheduler, jobs))
        if chance.random() < 0.2:
            await turns(chance.randint(0, 30))
            running.cancel()
            if not await _ended(running):
                cancelled.add(number)
                return None
        answers = await running
        for job, answer in zip(jobs, answers, strict=True):
            if number in unlucky:
                assert is_error(answer, ErrorCode.INTERNAL) or answer == job.right
            else:
                assert answer == job.right
        return answers

    answered = 0
    async with serving(step) as scheduler:
        for start in range(0, 10_000, 100):
            numbers = range(start, start + 100)
            answers = await asyncio.gather(*(request(number) for number in numbers))
            answered += sum(each is not None for each in answers)

    assert answered + len(cancelled) == 10_000
    assert 1_000 < len(cancelled) < 2_200
    assert 50 < len(unlucky) < 500


async def _ended(task: "asyncio.Task[Any]") -> bool:
    """Waits until it has ended; whether it has a result."""
    await asyncio.wait([task])
    return not task.cancelled()
