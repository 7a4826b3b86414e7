"""When a request is repeated, without a network or time."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from app.client import (
    AsyncDropserveClient,
    BusyError,
    ConnectionFailedError,
    DeadlineExceededError,
    DropserveClient,
    DropserveError,
    RequestError,
    RetryPolicy,
    ServerFailedError,
    TimedOutError,
)
from app.client.retries import Flow, exchange
from tests.app.client.conftest import ANSWER, PICTURE

REQUEST = httpx.Request("POST", "http://dropserve/predict")
OK = httpx.Response(200, request=REQUEST)
BUSY = {"code": "overloaded", "message": "busy", "param": None, "request_id": "r"}


def busy(
    status: int = 429, retry_after: str | None = None, milliseconds: str | None = None
) -> httpx.Response:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    if milliseconds is not None:
        headers["retry-after-ms"] = milliseconds
    return httpx.Response(status, json={"error": BUSY}, headers=headers, request=REQUEST)


def play(flow: Flow[httpx.Response], *outcomes: Any) -> tuple[list[float], httpx.Response]:
    """The seconds waited, and what came out, when the requests have these outcomes."""
    waited: list[float] = []
    following = iter(outcomes)
    outcome = None
    try:
        while True:
            seconds, request = flow.send(outcome)
            waited.append(seconds)
            assert request is REQUEST
            outcome = next(following)
    except StopIteration as end:
        assert waited.pop(0) == 0  # before the first request
        return waited, end.value


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    flow = exchange(REQUEST, RetryPolicy())

    (first, second), response = play(flow, busy(429, "2"), busy(503, "2"), OK)

    assert response is OK
    assert 2.1 <= first <= 2.2
    assert 2.2 <= second <= 2.4


def test_milliseconds_are_preferred_to_seconds() -> None:
    (seconds,), _ = play(exchange(REQUEST, RetryPolicy()), busy(429, "1", "40"), OK)

    assert 0.14 <= seconds <= 0.24


def test_what_is_no_number_of_milliseconds_is_ignored() -> None:
    (seconds,), _ = play(exchange(REQUEST, RetryPolicy()), busy(429, "1", "soon"), OK)

    assert 1.1 <= seconds <= 1.2


def test_clients_that_were_refused_together_do_not_come_back_together() -> None:
    waits = {
        play(exchange(REQUEST, RetryPolicy()), busy(429, "1", "40"), OK)[0][0] for _ in range(50)
    }

    assert len(waits) > 40
    assert max(waits) - min(waits) > 0.05


def test_retry_after_may_be_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)

    (seconds,), _ = play(exchange(REQUEST, RetryPolicy()), busy(429, date), OK)

    assert 8 <= seconds <= 10.2


def test_without_a_time_the_waits_grow() -> None:
    waited, _ = play(exchange(REQUEST, RetryPolicy(5)), *[busy()] * 5, OK)

    for number, seconds in enumerate(waited):
        assert 0.1 * 2**number <= seconds <= 0.2 * 2**number


def test_retries_end() -> None:
    with pytest.raises(BusyError, match="busy"):
        play(exchange(REQUEST, RetryPolicy(2)), *[busy()] * 3)


def test_nobody_waits_longer_than_the_policy_allows() -> None:
    policy = RetryPolicy(retries=10, max_wait_seconds=30)
    with pytest.raises(BusyError) as caught:
        play(exchange(REQUEST, policy), busy(429, "31"))
    assert caught.value.retry_after == 31
    with pytest.raises(BusyError):
        play(exchange(REQUEST, policy), *[busy(429, "20")] * 2)


@pytest.mark.parametrize(
    "failure", [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError,
                httpx.RemoteProtocolError]
)  # fmt: skip
def test_a_connection_that_failed_is_tried_again(failure: type[httpx.TransportError]) -> None:
    error = failure("no", request=REQUEST)

    waited, response = play(exchange(REQUEST, RetryPolicy()), error, OK)

    assert (len(waited), response) == (1, OK)
    with pytest.raises(ConnectionFailedError, match="http://dropserve"):
        play(exchange(REQUEST, RetryPolicy(1)), error, error)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (httpx.ReadTimeout("slow", request=REQUEST), TimedOutError),
        (httpx.Response(500, json={"error": BUSY}, request=REQUEST), ServerFailedError),
        (httpx.Response(504, json={"error": BUSY}, request=REQUEST), DeadlineExceededError),
        (httpx.Response(422, json={"error": BUSY}, request=REQUEST), RequestError),
    ],
)
def test_what_would_fail_again_is_not_repeated(
    outcome: Any, expected: type[DropserveError]
) -> None:
    with pytest.raises(expected):
        play(exchange(REQUEST, RetryPolicy()), outcome)


@pytest.mark.parametrize("is_async", [False, True])
async def test_both_clients_repeat_a_request(is_async: bool) -> None:
    responses = iter([busy(429, "0"), busy(503), httpx.Response(200, json=ANSWER)])
    transport = httpx.MockTransport(lambda _: next(responses))

    if is_async:
        answer = await AsyncDropserveClient(transport=transport).predict(PICTURE)
    else:
        answer = DropserveClient(transport=transport).predict(PICTURE)

    assert answer.digit == 4
