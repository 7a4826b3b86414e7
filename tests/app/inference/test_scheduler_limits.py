"""The scheduler's deadlines, admission, streams and end."""

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from app.errors import ErrorCode
from app.inference.backlog import Charge
from app.inference.scheduler import (
    _REFUSING_ROUNDS,
    TURNS_OF_A_ROUND,
    Scheduler,
)
from tests.api_errors import is_error, raises_error
from tests.app.inference.fake_jobs import (
    NEVER,
    PATIENCE_SECONDS,
    ROUND,
    Adder,
    Answer,
    Sum,
    answers_of,
    ask,
    charge,
    make_scheduler,
    pass_value,
    serving,
    turns,
)

# Deadlines


async def test_what_is_not_ready_by_its_deadline_is_computed_no_further() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        late = ask(scheduler, Sum(1, 50 * ROUND), deadline=step.clock() + 250)
        patient = ask(scheduler, Sum(2, 100 * ROUND))  # larger, so it comes after the other

        (answer,) = await late
        assert is_error(answer, ErrorCode.DEADLINE_EXCEEDED)
        assert await patient == [Sum(2, 100 * ROUND).right]

    # The deadline comes in the third round.
    assert step.passes_of(1) == 3 * ROUND


async def test_a_deadline_that_has_passed_costs_no_pass() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        (answer,) = await ask(scheduler, Sum(1, 10), deadline=step.clock())

    assert is_error(answer, ErrorCode.DEADLINE_EXCEEDED)
    assert step.steps == []


async def test_what_was_ready_before_the_deadline_keeps_its_answer() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        jobs = [Sum(number, ROUND) for number in range(5)]
        answers = await ask(scheduler, *jobs, deadline=step.clock() + 2 * ROUND)

    assert answers[:2] == [Sum(0, ROUND).right, Sum(1, ROUND).right]
    assert all(is_error(answer, ErrorCode.DEADLINE_EXCEEDED) for answer in answers[2:])


# Rounds


@pytest.mark.parametrize(("is_refusing", "steps"), [(False, 1), (True, _REFUSING_ROUNDS)])
async def test_rounds_are_longer_while_requests_are_refused(is_refusing: bool, steps: int) -> None:
    step = Adder()

    async def turns_until_a_step() -> int:
        count, before = 0, len(step.steps)
        while len(step.steps) == before:
            await turns(1)
            count += 1
        return count

    async with serving(step) as scheduler:
        ask(scheduler, Sum(1, 1000 * ROUND))
        await turns_until_a_step()
        if is_refusing:
            assert scheduler.wait_if_too_long(1, 1e9, NEVER) is not None
        before = len(step.steps)
        await turns_until_a_step()
        assert len(step.steps) - before == steps
        assert await turns_until_a_step() == TURNS_OF_A_ROUND


# Admission: a pass takes a second of the clock


async def test_an_admitted_request_counts_as_far_as_it_is_not_computed() -> None:
    step = Adder()

    async def request(*jobs: Sum) -> list[Answer | Exception]:
        with scheduler.admit(sum(job.passes for job in jobs)) as charge:
            return (await scheduler.run(jobs, NEVER, charge))[0]

    async with serving(step) as scheduler:
        leaving = asyncio.create_task(request(Sum(3, 5000)))
        failing = asyncio.create_task(request(Sum(1, 20, is_failing=True)))
        batch = asyncio.create_task(request(Sum(2, 300), Sum(2, 300)))
        await turns(1)
        assert scheduler.queued == 5620

        while not batch.done():
            assert scheduler.queued == 5620 - step.passes
            await turns(1)
        assert is_error((await failing)[0], ErrorCode.INTERNAL)
        assert scheduler.queued == 5000 - step.passes_of(3)
        leaving.cancel()
        await asyncio.wait([leaving])
        assert scheduler.queued == 0


async def test_a_request_is_refused_if_its_wait_would_be_too_long() -> None:
    async with serving(Adder(), max_wait_seconds=1000) as scheduler, AsyncExitStack() as admitted:
        for _ in range(10):
            admitted.enter_context(scheduler.admit(100))
        scheduler.check(100)  # it would wait 1000 seconds
        admitted.enter_context(scheduler.admit(1))
        with raises_error(ErrorCode.OVERLOADED), scheduler.admit(100):
            pass
        assert scheduler.queued == 1001
    assert scheduler.queued == 0


@pytest.mark.parametrize("passes", [50, 1000, 256_000])
async def test_no_single_request_causes_the_refusal_of_another_as_small_or_smaller(
    passes: int,
) -> None:
    async with serving(Adder(), max_wait_seconds=300_000) as scheduler:
        with scheduler.admit(256_000):
            scheduler.check(passes)


async def test_any_number_of_large_requests_delays_a_small_one_by_a_third_of_its_own_time() -> None:
    async with serving(Adder(), max_wait_seconds=1_000_000) as scheduler:
        with scheduler.admit(256_000), scheduler.admit(256_000), scheduler.admit(256_000):
            assert scheduler.backlog.wait(60) == pytest.approx(20)
            with scheduler.admit(60):
                assert scheduler.backlog.wait(60) == pytest.approx(60 + 40)


async def test_a_request_is_refused_if_it_would_wait_longer_than_its_own_timeout() -> None:
    async with serving(Adder(), max_wait_seconds=1000) as scheduler:
        with scheduler.admit(100):
            scheduler.check(100, timeout=100)
            with raises_error(ErrorCode.OVERLOADED):
                scheduler.check(100, timeout=99)


async def test_what_it_waits_before_counts_as_well() -> None:
    async with serving(Adder(), max_wait_seconds=1000) as scheduler:
        with scheduler.admit(100):
            scheduler.check(100, before=900)
            with raises_error(ErrorCode.OVERLOADED):
                scheduler.check(100, before=901)


def refusal(scheduler: Scheduler[Sum, Answer], cost: int) -> Mapping[str, str]:
    """The headers of `overloaded`."""
    with raises_error(ErrorCode.OVERLOADED) as caught:
        scheduler.check(cost)
    return caught.value.headers


@pytest.mark.parametrize("rate", [2.0, 50.0])
async def test_retry_after_is_the_predicted_wait(rate: float) -> None:
    step = Adder(seconds_per_pass=1 / rate)
    async with serving(step, max_wait_seconds=1) as scheduler:
        await ask(scheduler, *(Sum(1, 100) for _ in range(400)))  # so that the pace is known

        with scheduler.admit(1010):
            headers = refusal(scheduler, 1000)

    assert int(headers["Retry-After-Ms"]) == pytest.approx(1010 / rate * 1000, rel=1e-4)
    assert int(headers["Retry-After"]) == math.ceil(int(headers["Retry-After-Ms"]) / 1000)


async def test_retry_after_is_never_zero() -> None:
    async with serving(Adder(seconds_per_pass=1e-9), max_wait_seconds=1e-9) as scheduler:
        await ask(scheduler, *(Sum(1, 100) for _ in range(400)))

        with scheduler.admit(10):
            assert refusal(scheduler, 10) == {"Retry-After": "1", "Retry-After-Ms": "1"}


async def test_what_else_takes_the_event_loop_makes_the_predicted_wait_longer() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        large = ask(scheduler, Sum(1, 199 * ROUND))
        for _ in range(20 * TURNS_OF_A_ROUND):
            await turns(1)
            step.clock.now += 2.9 * ROUND / TURNS_OF_A_ROUND

        assert scheduler.backlog.pace == pytest.approx(1 / 2, rel=0.1)
        large.cancel()


async def test_idle_time_does_not_make_the_predicted_wait_longer() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        for _ in range(100):
            await ask(scheduler, Sum(1, ROUND))
            await turns(3)
            step.clock.now += 1000 * ROUND

        with scheduler.admit(100):
            assert scheduler.backlog.wait(100) == pytest.approx(100)


async def test_the_most_that_is_queued_takes_the_longest_wait_at_the_measured_pace() -> None:
    step = Adder(seconds_per_pass=0.25)
    async with serving(step, max_wait_seconds=500) as scheduler:
        assert scheduler.most_queued == 500
        await ask(scheduler, *(Sum(1, 4000) for _ in range(10)))
        assert scheduler.most_queued == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize(
    ("passes", "pace"),
    [(50, 3.0), (400, 2.0)],  # of the last round, in which two jobs end, or one
)
async def test_what_a_job_costs_besides_its_passes_counts_at_its_end(
    passes: int, pace: float
) -> None:
    async with serving(Adder(), job_cost=100) as scheduler:
        await ask(scheduler, *(Sum(1, passes) for _ in range(10)))

        assert scheduler.backlog.pace == pytest.approx(pace)


async def test_each_change_of_the_queue_is_reported() -> None:
    changes: list[int] = []
    scheduler = make_scheduler(Adder(), note_queued=changes.append)
    with scheduler.admit(70), scheduler.admit(30):
        assert scheduler.queued == 100
    assert changes == [70, 30, -30, -70]


async def test_a_job_that_takes_more_than_it_was_charged_with_leaves_nothing_below_0() -> None:
    left: list[int] = []

    def note(change: int) -> None:
        left.append(scheduler.queued)

    scheduler: Scheduler[Sum, Answer] = make_scheduler(Adder(), note_queued=note)
    jobs = [Sum(1, 4 * ROUND)]
    with Charge(scheduler.backlog, ROUND + ROUND // 2) as own:
        assert (await scheduler.run(jobs, NEVER, own))[0] == [jobs[0].right]
    await scheduler.close(0)

    assert list(dict.fromkeys(left)) == [150, 50, 0]


# Streams


def stream(scheduler: Scheduler[Sum, Answer], job: Sum, deadline: float = NEVER) -> Any:
    return aclosing(_streamed_answers(scheduler, job, deadline))


async def _streamed_answers(
    scheduler: Scheduler[Sum, Answer], job: Sum, deadline: float
) -> AsyncGenerator[Answer, None]:
    with charge(scheduler, [job]) as own:
        async with aclosing(scheduler.stream(job, deadline, own)) as answers:
            async for answer, _ in answers:
                yield answer


def streamed(number: int, passes: int) -> Sum:
    return Sum(number, passes, stride=40, is_streamed=True)


async def test_a_stream_has_the_partial_results_and_ends_with_the_answer() -> None:
    async with serving(Adder()) as scheduler, stream(scheduler, streamed(1, 100)) as answers:
        streamed_answers = [answer async for answer in answers]

    sums = [sum(pass_value(1, index) for index in range(stop)) for stop in (40, 80, 100)]
    assert streamed_answers == [(1, total) for total in sums]


async def test_a_stream_comes_while_the_rest_is_computed_and_others_are_served() -> None:
    step = Adder()
    async with serving(step) as scheduler, stream(scheduler, streamed(1, 4000)) as answers:
        await anext(answers)
        assert step.passes < 200
        assert await ask(scheduler, Sum(2, 150)) == [Sum(2, 150).right]
        assert step.passes < 4000


async def test_a_reader_that_goes_away_stops_the_stream() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        async with stream(scheduler, streamed(1, 4000)) as answers:
            await anext(answers)
        computed = step.passes
        await turns(20)

        assert step.passes == computed < 200


async def test_a_stream_that_fails_raises_after_its_partial_results() -> None:
    def break_down(number: int) -> None:
        if number == 2:
            raise ValueError("midway")

    step = Adder(before=break_down)
    async with serving(step) as scheduler, stream(scheduler, streamed(1, 4000)) as answers:
        streamed_answers = [await anext(answers), await anext(answers)]
        with raises_error(ErrorCode.INTERNAL):
            await anext(answers)

    assert [number for number, _ in streamed_answers] == [1, 1]


async def test_a_streams_deadline_ends_it() -> None:
    step = Adder()
    deadline = step.clock() + 100
    async with (
        serving(step) as scheduler,
        stream(scheduler, streamed(1, 4000), deadline) as answers,
    ):
        with raises_error(ErrorCode.DEADLINE_EXCEEDED):
            async for _ in answers:
                pass

    assert step.passes == 120


async def test_a_stream_ends_where_a_partial_result_cannot_be_made() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        job = Sum(1, 200, stride=20, is_streamed=True, is_unanswerable=True)
        with raises_error(ErrorCode.INTERNAL):
            await anext(_streamed_answers(scheduler, job, NEVER))

        assert await ask(scheduler, Sum(2, 20)) == [Sum(2, 20).right]
    assert step.passes < 200


# The end


async def test_closing_takes_nothing_more_and_finishes_what_is_queued() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        requests = [ask(scheduler, Sum(number, 5 * ROUND)) for number in range(4)]
        await turns(2)
        closing = asyncio.create_task(scheduler.close(PATIENCE_SECONDS))
        await turns(1)
        with raises_error(ErrorCode.NOT_READY), scheduler.admit(1):
            pass

        await closing
        answers = [request.result() for request in requests]

    assert answers == [[Sum(number, 5 * ROUND).right] for number in range(4)]


async def test_closing_waits_for_what_is_admitted_and_still_being_read() -> None:
    is_read = asyncio.Event()

    async def request() -> list[Answer | Exception]:
        with scheduler.admit(20):
            await is_read.wait()
            return await answers_of(scheduler, [Sum(1, 20)])

    async with serving(Adder()) as scheduler:
        reading = asyncio.create_task(request())
        await turns(1)
        await ask(scheduler, Sum(2, 20))  # which is finished before
        closing = asyncio.create_task(scheduler.close(PATIENCE_SECONDS))
        await turns(5)
        assert not closing.done()
        is_read.set()
        await closing

        assert reading.result() == [Sum(1, 20).right]


async def test_closing_waits_for_what_is_computed_though_another_has_left() -> None:
    async with serving(Adder()) as scheduler:
        computed = ask(scheduler, Sum(1, 20 * ROUND))
        await turns(2)
        with scheduler.admit(20):
            pass
        await scheduler.close(PATIENCE_SECONDS)

        assert computed.result() == [Sum(1, 20 * ROUND).right]


async def test_what_is_not_finished_when_the_time_is_over_ends_with_not_ready() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        requests = [ask(scheduler, Sum(number, 10**9)) for number in range(3)]
        await turns(5)
        await scheduler.close(0)

        for (answer,) in await asyncio.gather(*requests):
            assert is_error(answer, ErrorCode.NOT_READY)
        computed = step.passes
        await turns(5)
        assert step.passes == computed

        # As would be asked for by a request that was admitted, and read, before.
        with raises_error(ErrorCode.NOT_READY):
            await answers_of(scheduler, [Sum(4, 20)])


@pytest.mark.parametrize("was_used", [False, True])
async def test_closing_an_idle_scheduler_takes_no_time(was_used: bool) -> None:
    async with serving(Adder()) as scheduler:
        if was_used:
            await ask(scheduler, Sum(1, 20))
        closing = asyncio.create_task(scheduler.close(NEVER))
        await turns(10)  # in which no timer ends
        assert closing.done()
