"""What a predictor asks the scheduler for, by the costs of its network; all else are fakes."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from app.errors import ErrorCode
from app.inference.admission import Admission
from app.inference.backlog import Backlog, Charge, Expected, Pace
from app.schemas import McParameters, PredictParameters
from app.settings import Settings
from tests.api_errors import raises_error

PLAIN, SAMPLED = PredictParameters(), McParameters(passes=7)


class Scheduler:
    """Notes what is asked for, and admits it; its backlog does one unit of cost in a second."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float, float]] = []
        self.backlog, self.expected = Backlog(1.0), Expected()

    def check(self, cost: int, *, before: float = 0.0, timeout: float = 0.0) -> None:
        self.asked.append((cost, before, timeout))

    def admit(self, cost: int, *, before: float, timeout: float) -> Charge:
        self.check(cost, before=before, timeout=timeout)
        return Charge(self.backlog, cost)


def make_admission(deterministic: int = 20, per_pass: int = 3) -> tuple[Any, Scheduler]:
    """An admission whose decoding takes a second for each unit of its cost."""
    scheduler = Scheduler()
    reader = SimpleNamespace(cost=lambda image, size=None: size or len(image), wait=float)
    reader.backlog = Backlog(1.0)
    shared: Any = SimpleNamespace(scheduler=scheduler, reader=reader)
    cost: Any = SimpleNamespace(deterministic=deterministic, per_pass=per_pass, per_image=32)
    answers: Any = SimpleNamespace(check=lambda parameters: None)
    return Admission(shared, cost, answers, Settings(max_timeout_ms=9000)), scheduler


def test_the_smallest_request_is_one_pass_of_one_image() -> None:
    admission, scheduler = make_admission()
    admission.check(PredictParameters)
    admission.check(McParameters)

    assert scheduler.asked == [(20, 0, 0), (32 + 3, 0, 0)]


@pytest.mark.parametrize(("parameters", "each"), [(PLAIN, 20), (SAMPLED, 7 * 3 + 32)])
def test_a_request_costs_what_its_images_and_passes_do(
    parameters: PredictParameters, each: int
) -> None:
    admission, scheduler = make_admission()
    admission.check_request(5, parameters, decoding_cost=4)
    admission.check_request(5, parameters)
    decoding = Charge(scheduler.backlog, 6)
    with admission._admit([b""] * 3, parameters, decoding) as charge:
        assert charge.cost == 3 * each

    assert scheduler.asked == [(5 * each, 4, 9), (5 * each, 0, 9), (3 * each, 6, 9)]


def test_a_timeout_of_the_requests_own_is_milliseconds() -> None:
    admission, scheduler = make_admission()
    parameters = McParameters(timeout_ms=250)
    admission.check_request(1, parameters)
    earliest = time.monotonic() + 0.25
    deadline = admission._deadline(parameters)

    assert scheduler.asked[0][2] == 0.25
    assert earliest <= deadline <= time.monotonic() + 0.25


def test_a_request_like_a_refused_one_is_asked_about_by_its_images_and_picture() -> None:
    asked: list[tuple[int, float, float]] = []
    each = 7 * 3 + 32

    def wait_if_too_long(cost: int, before: float, timeout: float) -> int | None:
        asked.append((cost, before, timeout))
        return 7 if before or cost > each else None

    admission, scheduler = make_admission()
    scheduler.wait_if_too_long = wait_if_too_long  # type: ignore[attr-defined]
    recheck = admission.recheck(McParameters(passes=7, timeout_ms=250))
    assert (recheck(3), recheck(1, b"x", 4)) == (7, 7)

    assert asked == [(3 * each, 0, 0.25), (each, 0, 0.25), (each, 4, 0.25)]
    assert scheduler.backlog.total == 0


async def test_what_is_not_refused_counts_until_it_is_admitted_itself() -> None:
    admission, scheduler = make_admission()
    scheduler.wait_if_too_long = lambda *asked: None  # type: ignore[attr-defined]
    recheck = admission.recheck(PLAIN)
    assert recheck(2, b"x", 4) is None
    seen = []

    def note() -> None:  # as the task of the first request would
        seen.append((scheduler.backlog.total, recheck.reader.backlog.total))

    asyncio.get_running_loop().call_soon(note)
    assert recheck(1) is None
    note()

    await asyncio.sleep(0)
    assert seen == [(3 * 20, 4), (0, 0)]


def test_who_is_closed_asks_the_scheduler_for_nothing() -> None:
    admission, scheduler = make_admission()
    admission._is_closed = True
    with raises_error(ErrorCode.NOT_READY):
        admission.check(PredictParameters)
    with raises_error(ErrorCode.NOT_READY):
        admission._admit([b""], PLAIN, Charge(scheduler.backlog, 0))

    assert scheduler.asked == []


def test_what_is_decoded_in_a_thread_may_take_long() -> None:
    admission, _ = make_admission()

    assert admission.may_take_long(b"x", PLAIN)
    assert not admission.may_take_long(b"", PLAIN)


@pytest.mark.parametrize("more", [0, 1])
def test_a_deterministic_answer_may_take_long_beyond_the_inline_cost(more: int) -> None:
    admission, _ = make_admission(deterministic=200 + more)

    assert admission.may_take_long(b"", PLAIN) == bool(more)


@pytest.mark.parametrize(("passes", "takes_long"), [(64, False), (65, True)])
def test_passes_may_take_long_beyond_256_of_the_fastest_network(
    passes: int, takes_long: bool
) -> None:
    admission, _ = make_admission(per_pass=4)

    assert admission.may_take_long(b"", McParameters(passes=passes)) == takes_long


def test_a_request_that_waits_more_than_10_ms_may_take_long() -> None:
    admission, scheduler = make_admission()
    with Charge(scheduler.backlog, 1) as charge:
        for left, pace in ((1, 100.0), (1, 99.0)):
            charge.settle(left)
            scheduler.backlog._pace = Pace(pace)
            waits = scheduler.backlog.wait(7 * 3 + 32)
            assert admission.may_take_long(b"", SAMPLED) == (waits > 0.01) == (pace == 99.0)
