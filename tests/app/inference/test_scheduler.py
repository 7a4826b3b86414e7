"""The scheduler alone: a step whose answers depend on what it was given, and a clock moved by hand.

Each fault that other servers' schedulers had is a test: lost callers, exchanged rows, a scheduler
that died and was still asked, waiting for company. Deadlines, admission, streams and closing are in
`test_scheduler_limits.py`.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError, ErrorCode
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
    serving,
    turns,
)

# Sharing rounds


async def test_one_job_is_computed_at_once_and_waits_for_no_company() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        request = ask(scheduler, Sum(1, 50))
        # No timer ends within so few turns of the event loop.
        await turns(3)

        assert step.rounds == [[(1, 50)]]
        assert await request == [Sum(1, 50).right]


async def test_what_is_queued_together_shares_a_round() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        jobs = [Sum(1, 1), Sum(2, 30), Sum(3, 7), Sum(4, 12)]
        requests = [ask(scheduler, job) for job in jobs]

        assert await asyncio.gather(*requests) == [[job.right] for job in jobs]
        assert step.rounds == [[(1, 1), (2, 30), (3, 7), (4, 12)]]


async def test_what_comes_during_a_round_is_in_the_next() -> None:
    late: list[Running] = []

    def arrive(number: int) -> None:
        if number == 0:
            late.append(ask(scheduler, Sum(2, 10)))

    step = Adder(before=arrive)
    async with serving(step) as scheduler:
        await ask(scheduler, Sum(1, 150))
        assert await late[0] == [Sum(2, 10).right]

    assert step.rounds[1] == [(1, 50), (2, 10)]


async def test_a_round_counts_passes_and_an_overhead_for_each_job() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        jobs = [Sum(number, 15) for number in range(12)]
        await asyncio.gather(*(ask(scheduler, job) for job in jobs))

    # 15 and an overhead of 10 fill a quarter of a round.
    assert [len(batch) for batch in step.rounds] == [4, 4, 4]


async def test_what_fits_a_round_is_not_split_over_two() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        jobs = [Sum(1, 60), Sum(2, 60), Sum(3, 20)]
        await asyncio.gather(*(ask(scheduler, job) for job in jobs))

    # 30 passes were left in the first round; the second job needs 60, all at once.
    assert step.rounds == [[(1, 60)], [(2, 60), (3, 20)]]


async def test_what_fits_no_round_fills_what_is_left_of_one() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        await asyncio.gather(ask(scheduler, Sum(1, 60)), ask(scheduler, Sum(2, 110)))

    assert step.rounds == [[(1, 60), (2, 30)], [(2, 80)]]


async def test_a_step_takes_no_more_than_the_job_wants() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        job = Sum(1, 70, largest_step=32)

        assert await ask(scheduler, job) == [Sum(1, 70).right]

    assert step.rounds == [[(1, 32)], [(1, 32)], [(1, 6)]]


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
async def test_a_large_request_lets_others_go_first_once_it_had_its_share(name: str) -> None:
    step = Adder()
    async with serving(step) as scheduler:
        large = ask(scheduler, *LARGE_REQUESTS[name]())
        small = ask(scheduler, Sum(2, 60))

        assert await small == [Sum(2, 60).right]

        passes_before = sum(
            passes for batch in step.rounds for number, passes in batch if number == 1
        )
        assert SHARE <= passes_before < SHARE + 2 * ROUND
        assert not large.done()
        await large


async def test_two_large_requests_take_turns() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        await asyncio.gather(ask(scheduler, Sum(1, 4 * SHARE)), ask(scheduler, Sum(2, 4 * SHARE)))

    order = [number for number, _ in itertools.chain.from_iterable(step.rounds)]
    assert [number for number, _ in itertools.groupby(order)] == [1, 2] * 4


async def test_the_event_loop_has_a_turn_between_any_two_rounds() -> None:
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(len(step.rounds))
            await asyncio.sleep(0)

    step = Adder()
    async with serving(step) as scheduler:
        looking = asyncio.create_task(look())
        await ask(scheduler, Sum(1, 20 * ROUND))
        looking.cancel()

    assert set(range(1, 20)) <= set(seen)


async def test_a_request_without_jobs_has_no_answers() -> None:
    async with serving(Adder()) as scheduler:
        assert await scheduler.run([], NEVER) == ([], 0.0)


async def test_a_run_returns_how_long_it_was_computed() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        (_, first), (_, second) = await asyncio.gather(
            scheduler.run([Sum(1, 60)], NEVER), scheduler.run([Sum(2, 60), Sum(3, 20)], NEVER)
        )

    # A thousandth of a second a pass; two images in one round are one round.
    assert step.rounds == [[(1, 60)], [(2, 60), (3, 20)]]
    assert first == pytest.approx(0.060)
    assert second == pytest.approx(0.080)


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
            largest_step=draw(st.sampled_from([1_000_000, 32, 5])),
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


async def test_the_answers_of_a_round_are_made_together() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        await asyncio.gather(*(ask(scheduler, Sum(number, 20)) for number in (1, 2, 3)))

    assert step.answered == [[1, 2, 3]]


async def test_the_answers_of_a_large_request_are_made_many_at_a_time_but_not_all() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        answers = await ask(scheduler, *(Sum(number, 80) for number in range(70)))

    assert answers == [Sum(number, 80).right for number in range(70)]
    assert [number for made in step.answered for number in made] == list(range(70))
    assert [len(made) for made in step.answered] == [32, 32, 6]


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

    computed = {number for number, _ in itertools.chain.from_iterable(step.rounds)}
    assert computed == {1, 3}


async def test_a_request_cancelled_between_rounds_is_computed_no_further() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        leaving = ask(scheduler, Sum(1, 50 * ROUND))
        staying = ask(scheduler, Sum(2, 4 * ROUND))
        await turns(6)
        assert len(step.rounds) >= 2
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


async def test_a_batch_that_fails_is_computed_one_by_one_and_the_next_one_works(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = Adder()
    async with serving(step) as scheduler:
        jobs = [Sum(1, 20), Sum(2, 20, is_failing=True), Sum(3, 20)]
        answers = await asyncio.gather(*(ask(scheduler, job) for job in jobs))

        assert answers[0] == [Sum(1, 20).right]
        assert answers[2] == [Sum(3, 20).right]
        (failed,) = answers[1]
        assert is_error(failed, ErrorCode.INTERNAL)
        assert isinstance(failed, ApiError)
        assert isinstance(failed.__cause__, ValueError)
        assert step.rounds == [[(1, 20), (2, 20), (3, 20)], [(1, 20)], [(2, 20)], [(3, 20)]]
        assert "this batch cannot be computed" in caplog.text

        again = await asyncio.gather(*(ask(scheduler, Sum(number, 20)) for number in range(3)))
        assert again == [[Sum(number, 20).right] for number in range(3)]


@pytest.mark.parametrize("change", [lambda found: found[:-1], lambda found: [*found, found[0]]])
async def test_a_result_of_the_wrong_length_is_given_to_nobody_and_nobody_waits(
    change: Callable[[list[Any]], list[Any]],
) -> None:
    async with serving(Adder(alter_answers=change)) as scheduler:
        answers = await asyncio.gather(*(ask(scheduler, Sum(number, 20)) for number in range(3)))

        assert all(is_error(answer, ErrorCode.INTERNAL) for (answer,) in answers)


def cancel(_: object) -> Any:
    raise asyncio.CancelledError


DEFECTS: dict[str, Callable[[Adder], object]] = {
    "no answers at all": lambda step: setattr(step, "alter_answers", lambda made: None),
    "the clock": lambda step: setattr(step.clock, "now", "midnight"),
    "a step that is cancelled": lambda step: setattr(step, "before", cancel),
}


@pytest.mark.parametrize("defect", DEFECTS)
async def test_whatever_breaks_every_caller_gets_an_error_and_the_next_request_is_served(
    defect: str,
) -> None:
    step = Adder()
    async with serving(step) as scheduler:
        assert await ask(scheduler, Sum(0, 20)) == [Sum(0, 20).right]
        DEFECTS[defect](step)

        requests = [ask(scheduler, Sum(number, 20)) for number in range(3)]
        for own in await asyncio.gather(*requests):
            (answer,) = own
            assert is_error(answer, ErrorCode.INTERNAL, ErrorCode.NOT_READY)

        step.alter_answers, step.before, step.clock.now = lambda made: made, lambda _: None, 0.0
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


async def test_ten_thousand_requests_with_cancellations_and_failing_batches() -> None:
    chance = random.Random(0)
    unlucky: set[int] = set()

    def fail_one_in_a_hundred(_: int) -> None:
        if chance.random() < 0.01:
            (*others, last) = step.rounds[-1]
            if not others:  # tried alone: this one fails for good
                unlucky.add(last[0])
            raise ValueError("this batch fails")

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

    failures = len(step.rounds)
    assert answered + len(cancelled) == 10_000
    assert 1_000 < len(cancelled) < 2_200
    assert 1 <= len(unlucky) < 100
    assert failures > 1_000


async def _ended(task: "asyncio.Task[Any]") -> bool:
    """Waits until it has ended; whether it has a result."""
    await asyncio.wait([task])
    return not task.cancelled()
