"""The scheduler alone: a step whose answers depend on what it was given, and a clock moved by hand.

Each fault that other servers' schedulers had is a test: lost callers, exchanged rows, a scheduler
that died and was still asked, waiting for company.
"""

import asyncio
import itertools
import math
import random
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import ApiError, ErrorCode
from app.inference.scheduler import Scheduler
from tests.api_errors import is_error, raises_error

NEVER = math.inf
# A test that would wait longer than this has found a caller who waits for ever.
PATIENCE_SECONDS = 20.0

ROUND, SHARE, OVERHEAD, MOST_QUEUED = 100, 300, 10, 10_000

Answer = tuple[int, int]


@dataclass(eq=False)
class Sum:
    """Work whose answer tells whose it is, and that each of its passes was computed once."""

    number: int
    passes: int
    largest_step: int = 1_000_000
    is_streamed: bool = False
    is_poisonous: bool = False  # makes the whole step fail
    is_unspeakable: bool = False  # makes all answers fail that are made with its own
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
        return self.number, sum(_value(self.number, index) for index in range(self.passes))


def _value(number: int, index: int) -> int:
    """Of one pass: another for every work and pass."""
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
        rounds: what was asked for in each call: number of the work, and passes.
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
        self.rounds.append([(work.number, passes) for work, passes in batch])
        self.before(number)
        if any(work.is_poisonous for work, _ in batch):
            raise ValueError("this batch cannot be computed")
        for work, passes in batch:
            assert 0 < passes <= min(work.remaining, work.largest_step)
            self.clock.now += passes * self.seconds_per_pass
            for index in range(work.done, work.done + passes):
                work.total += _value(work.number, index)
            work.done += passes

    def make_answers(self, jobs: Sequence[Sum]) -> Any:
        self.answered.append([work.number for work in jobs])
        if any(work.is_unspeakable for work in jobs):
            raise ValueError("these answers cannot be made")
        return self.alter_answers([(work.number, work.total) for work in jobs])

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
    scheduler: Scheduler[Sum, Answer], works: Sequence[Sum], deadline: float = NEVER
) -> list[Answer | Exception]:
    return (await scheduler.run(works, deadline))[0]


Running = asyncio.Task[list[Answer | Exception]]


def ask(scheduler: Scheduler[Sum, Answer], *works: Sum, deadline: float = NEVER) -> Running:
    """A request of its own, queued by the next turn of the event loop."""
    return asyncio.create_task(answers_of(scheduler, works, deadline))


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# Sharing rounds


async def test_one_work_is_computed_at_once_and_waits_for_no_company() -> None:
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
        works = [Sum(1, 1), Sum(2, 30), Sum(3, 7), Sum(4, 12)]
        requests = [ask(scheduler, work) for work in works]

        assert await asyncio.gather(*requests) == [[work.right] for work in works]
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


async def test_a_round_counts_passes_and_an_overhead_for_each_work() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        works = [Sum(number, 15) for number in range(12)]
        await asyncio.gather(*(ask(scheduler, work) for work in works))

    # 15 and an overhead of 10 fill a quarter of a round.
    assert [len(batch) for batch in step.rounds] == [4, 4, 4]


async def test_what_fits_a_round_is_not_split_over_two() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        works = [Sum(1, 60), Sum(2, 60), Sum(3, 20)]
        await asyncio.gather(*(ask(scheduler, work) for work in works))

    # 30 passes were left in the first round; the second work needs 60, all at once.
    assert step.rounds == [[(1, 60)], [(2, 60), (3, 20)]]


async def test_what_fits_no_round_fills_what_is_left_of_one() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        await asyncio.gather(ask(scheduler, Sum(1, 60)), ask(scheduler, Sum(2, 110)))

    assert step.rounds == [[(1, 60), (2, 30)], [(2, 80)]]


async def test_a_step_takes_no_more_than_the_work_wants() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        work = Sum(1, 70, largest_step=32)

        assert await ask(scheduler, work) == [Sum(1, 70).right]

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


async def test_a_request_without_works_has_no_answers() -> None:
    async with serving(Adder()) as scheduler:
        assert await scheduler.run([], NEVER) == ([], 0.0)


# Everybody gets their own


@st.composite
def requests_of_works(draw: st.DrawFn) -> list[list[Sum]]:
    numbers = itertools.count()

    def draw_work() -> Sum:
        number = next(numbers)
        kind = draw(st.sampled_from(["right", "right", "right", "poison", "mute"]))
        return Sum(
            number,
            passes=draw(st.integers(1, 3 * ROUND)),
            largest_step=draw(st.sampled_from([1_000_000, 32, 5])),
            is_poisonous=kind == "poison",
            is_unspeakable=kind == "mute",
        )

    counts = draw(st.lists(st.integers(1, 8) | st.just(40), min_size=1, max_size=8))
    return [[draw_work() for _ in range(count)] for count in counts]


@given(requests_of_works())
@settings(deadline=None)  # the machine may be busy
async def test_every_caller_gets_its_own_answers_in_its_order(requests: list[list[Sum]]) -> None:
    async with serving(Adder()) as scheduler:
        answers = await asyncio.gather(*(ask(scheduler, *works) for works in requests))

    for works, own in zip(requests, answers, strict=True):
        assert len(own) == len(works)
        for work, answer in zip(works, own, strict=True):
            if work.is_poisonous or work.is_unspeakable:
                assert is_error(answer, ErrorCode.INTERNAL)
            else:
                assert answer == work.right


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
        works = [Sum(1, 20), Sum(2, 20, is_poisonous=True), Sum(3, 20)]
        answers = await asyncio.gather(*(ask(scheduler, work) for work in works))

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
async def test_whatever_breaks_everybody_is_told_and_the_next_request_is_served(
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


async def test_an_answer_that_cannot_be_made_is_that_works_alone() -> None:
    async with serving(Adder()) as scheduler:
        works = [Sum(1, 20), Sum(2, 20, is_unspeakable=True), Sum(3, 20)]
        answers = await asyncio.gather(*(ask(scheduler, work) for work in works))

    assert answers[0] == [Sum(1, 20).right]
    assert answers[2] == [Sum(3, 20).right]
    assert is_error(answers[1][0], ErrorCode.INTERNAL)


async def test_a_stream_ends_where_an_estimate_cannot_be_made() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        work = Sum(1, 200, largest_step=20, is_streamed=True, is_unspeakable=True)
        with raises_error(ErrorCode.INTERNAL):
            await anext(scheduler.stream(work, NEVER))

        assert await ask(scheduler, Sum(2, 20)) == [Sum(2, 20).right]
    assert step.passes < 200


# Deadlines


async def test_what_is_not_ready_by_its_deadline_is_computed_no_further() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        late = ask(scheduler, Sum(1, 50 * ROUND), deadline=step.clock() + 0.25)
        patient = ask(scheduler, Sum(2, 8 * ROUND))

        (answer,) = await late
        assert is_error(answer, ErrorCode.DEADLINE_EXCEEDED)
        assert await patient == [Sum(2, 8 * ROUND).right]

    # A pass takes 0.001 s, so the deadline comes in the third round.
    assert sum(passes for [(number, passes)] in step.rounds if number == 1) == 3 * ROUND


async def test_a_deadline_that_has_passed_costs_no_pass() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        (answer,) = await ask(scheduler, Sum(1, 10), deadline=step.clock())

    assert is_error(answer, ErrorCode.DEADLINE_EXCEEDED)
    assert step.rounds == []


async def test_what_was_ready_before_the_deadline_keeps_its_answer() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        works = [Sum(number, 80) for number in range(5)]
        answers = await ask(scheduler, *works, deadline=step.clock() + 0.2)

    assert answers[:2] == [Sum(0, 80).right, Sum(1, 80).right]
    assert all(is_error(answer, ErrorCode.DEADLINE_EXCEEDED) for answer in answers[-2:])


# Admission


async def test_admitted_work_is_counted_until_it_is_answered() -> None:
    scheduler: Scheduler[Sum, Answer]

    async def request(cost: int, *works: Sum) -> None:
        with scheduler.admit(cost):
            for answer in await answers_of(scheduler, works):
                if isinstance(answer, Exception):
                    raise answer

    async with serving(Adder()) as scheduler:
        failing = asyncio.create_task(request(20, Sum(1, 20, is_poisonous=True)))
        good = asyncio.create_task(request(300, Sum(2, 300)))
        leaving = asyncio.create_task(request(5000, Sum(3, 5000)))
        await turns(1)
        assert scheduler.queued == 5320

        with raises_error(ErrorCode.INTERNAL):
            await failing
        assert scheduler.queued == 5300
        await good
        assert scheduler.queued == 5000
        leaving.cancel()
        await asyncio.wait([leaving])
        assert scheduler.queued == 0


async def test_a_request_is_admitted_where_twenty_like_it_would_fit() -> None:
    async with serving(Adder(), max_queued=1000) as scheduler:
        with scheduler.admit(800):  # 200 are left
            with scheduler.admit(10), raises_error(ErrorCode.OVERLOADED), scheduler.admit(10):
                pass
            with raises_error(ErrorCode.OVERLOADED), scheduler.admit(11):
                pass
            assert scheduler.queued == 800
        assert scheduler.queued == 0


async def test_beyond_the_limit_nothing_is_admitted() -> None:
    async with serving(Adder(), max_queued=1000) as scheduler:
        with scheduler.admit(1000):
            with raises_error(ErrorCode.OVERLOADED), scheduler.admit(1):
                pass
            assert scheduler.queued == 1000


async def test_a_request_of_any_size_is_admitted_while_seven_eighths_are_free() -> None:
    async with serving(Adder(), max_queued=1000) as scheduler:
        with scheduler.admit(126), raises_error(ErrorCode.OVERLOADED), scheduler.admit(1001):
            pass
        with scheduler.admit(125), scheduler.admit(1001):
            with raises_error(ErrorCode.OVERLOADED), scheduler.admit(1):
                pass
            assert scheduler.queued == 1126


@contextmanager
def refused(scheduler: Scheduler[Sum, Answer]) -> Iterator[list[int]]:
    """Catches `overloaded`; gives its seconds of Retry-After."""
    seconds: list[int] = []
    with raises_error(ErrorCode.OVERLOADED) as caught:
        yield seconds
    assert caught.value.headers.keys() == {"Retry-After"}
    seconds.append(int(caught.value.headers["Retry-After"]))


@pytest.mark.parametrize("rate", [2.0, 50.0])
async def test_retry_after_is_the_time_that_the_queue_takes(rate: float) -> None:
    step = Adder(seconds_per_pass=1 / rate)
    async with serving(step, max_queued=1000) as scheduler:
        await ask(scheduler, Sum(1, 400 * ROUND))  # so that the rate is known

        with scheduler.admit(1000), refused(scheduler) as seconds, scheduler.admit(1):
            pass

    assert 1000 / rate <= seconds[0] <= 1000 / rate + 2


async def test_retry_after_is_never_zero() -> None:
    async with serving(Adder(seconds_per_pass=1e-9), max_queued=1) as scheduler:
        await ask(scheduler, Sum(1, 400 * ROUND))

        with scheduler.admit(1), refused(scheduler) as seconds, scheduler.admit(1):
            pass

    assert seconds == [1]


# Streams


def stream(scheduler: Scheduler[Sum, Answer], work: Sum, deadline: float = NEVER) -> Any:
    return aclosing(_streamed_answers(scheduler, work, deadline))


async def _streamed_answers(
    scheduler: Scheduler[Sum, Answer], work: Sum, deadline: float
) -> AsyncGenerator[Answer, None]:
    async with aclosing(scheduler.stream(work, deadline)) as answers:
        async for answer, _ in answers:
            yield answer


def streamed(number: int, passes: int) -> Sum:
    return Sum(number, passes, largest_step=40, is_streamed=True)


async def test_a_stream_tells_what_is_known_so_far_and_ends_with_the_answer() -> None:
    async with serving(Adder()) as scheduler, stream(scheduler, streamed(1, 100)) as answers:
        told = [answer async for answer in answers]

    sums = [sum(_value(1, index) for index in range(stop)) for stop in (40, 80, 100)]
    assert told == [(1, total) for total in sums]


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


async def test_a_stream_that_fails_raises_after_what_it_told() -> None:
    def break_down(number: int) -> None:
        if number == 2:
            raise ValueError("midway")

    step = Adder(before=break_down)
    async with serving(step) as scheduler, stream(scheduler, streamed(1, 4000)) as answers:
        told = [await anext(answers), await anext(answers)]
        with raises_error(ErrorCode.INTERNAL):
            await anext(answers)

    assert [number for number, _ in told] == [1, 1]


async def test_a_streams_deadline_ends_it() -> None:
    step = Adder()
    deadline = step.clock() + 0.1
    async with (
        serving(step) as scheduler,
        stream(scheduler, streamed(1, 4000), deadline) as answers,
    ):
        with raises_error(ErrorCode.DEADLINE_EXCEEDED):
            async for _ in answers:
                pass

    assert step.passes == 120


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
        closing = asyncio.create_task(scheduler.close(PATIENCE_SECONDS))
        await turns(5)
        assert not closing.done()
        is_read.set()
        await closing

        assert reading.result() == [Sum(1, 20).right]


async def test_what_is_not_finished_when_the_time_is_over_is_told_so() -> None:
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
            await scheduler.run([Sum(4, 20)], NEVER)


@pytest.mark.parametrize("was_used", [False, True])
async def test_closing_an_idle_scheduler_takes_no_time(was_used: bool) -> None:
    async with serving(Adder()) as scheduler:
        if was_used:
            await ask(scheduler, Sum(1, 20))
        await scheduler.close(NEVER)


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
        works = [Sum(number, chance.randint(1, 60)) for _ in range(chance.choice([1, 1, 1, 2, 5]))]
        running = asyncio.create_task(answers_of(scheduler, works))
        if chance.random() < 0.2:
            await turns(chance.randint(0, 30))
            running.cancel()
            if not await _ended(running):
                cancelled.add(number)
                return None
        answers = await running
        for work, answer in zip(works, answers, strict=True):
            if number in unlucky:
                assert is_error(answer, ErrorCode.INTERNAL) or answer == work.right
            else:
                assert answer == work.right
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


async def test_a_request_is_told_how_long_it_was_computed() -> None:
    step = Adder()
    async with serving(step) as scheduler:
        (_, first), (_, second) = await asyncio.gather(
            scheduler.run([Sum(1, 60)], NEVER), scheduler.run([Sum(2, 60), Sum(3, 20)], NEVER)
        )

    # A thousandth of a second a pass; two images in one round are one round.
    assert step.rounds == [[(1, 60)], [(2, 60), (3, 20)]]
    assert first == pytest.approx(0.060)
    assert second == pytest.approx(0.080)


async def test_what_is_queued_is_told_as_it_changes() -> None:
    changes: list[int] = []
    scheduler: Scheduler[Sum, Answer] = Scheduler(
        Adder(),
        Adder().make_answers,
        round_passes=ROUND,
        share_passes=SHARE,
        job_overhead=OVERHEAD,
        max_queued=MOST_QUEUED,
        note_queued=changes.append,
    )
    with scheduler.admit(70), scheduler.admit(30):
        assert scheduler.queued == 100
    assert changes == [70, 30, -30, -70]
