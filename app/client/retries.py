"""One request and its answer, without sending it: retries, and what failures mean.

A generator of `Steps` yields what it wants done, a request to be sent or seconds to be waited, and
is sent what came of it, a response or an exception. So the synchronous and the asynchronous client
share everything but the doing, and tests need neither a network nor time.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import httpx

from .errors import (
    ConnectionFailedError,
    DropserveError,
    TimedOutError,
    UnexpectedAnswerError,
    error_from_answer,
)

R = TypeVar("R")
Step = httpx.Request | float
Outcome = httpx.Response | httpx.RequestError | None
Steps = Generator[Step, Outcome, R]

_FIRST_WAIT_SECONDS = 0.2
_BUSY = (429, 503)
# The connection was never made, or broke: asking again is safe, since the same question has the
# same answer and changes nothing. A server that is merely slow is not asked twice.
_BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.CloseError,
    httpx.RemoteProtocolError,
)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is repeated that found no server, or a busy one.

    Attributes:
        retries: at most so many times.
        max_wait_seconds: the longest time that is waited in between, all together; a server that
            wants more, by Retry-After, is not asked again.
    """

    retries: int = 3
    max_wait_seconds: float = 30.0


def exchange(request: httpx.Request, policy: RetryPolicy) -> Steps[httpx.Response]:
    """Sends a request until it is answered; returns the answer, a success.

    Raises:
        DropserveError: there is none.
    """
    left = policy.max_wait_seconds
    for retry in range(policy.retries + 1):
        outcome = yield request
        if isinstance(outcome, httpx.Response):
            if outcome.is_success:
                return outcome
            error = _error_of(outcome)
            is_worth_repeating = outcome.status_code in _BUSY
        else:
            assert outcome is not None
            error = connection_error(outcome)
            is_worth_repeating = isinstance(outcome, _BROKEN)
        seconds = error.retry_after
        if seconds is None:
            # Callers who failed together should not come back together.
            spread = random.uniform(0.5, 1.0)  # nosec B311: nobody gains by guessing it
            seconds = _FIRST_WAIT_SECONDS * 2**retry * spread
        if not is_worth_repeating or retry == policy.retries or seconds > left:
            raise error from (outcome if isinstance(outcome, Exception) else None)
        left -= seconds
        yield seconds
    raise AssertionError("the last attempt returns or raises")


def _error_of(response: httpx.Response) -> DropserveError:
    retry_after = _seconds(response.headers.get("retry-after"))
    try:
        return error_from_answer(response.json()["error"], response.status_code, retry_after)
    except (ValueError, TypeError, KeyError):
        return unexpected_answer(response, "not Dropserve's form of an error", retry_after)


def unexpected_answer(
    response: httpx.Response, what: str, retry_after: float | None = None
) -> UnexpectedAnswerError:
    """The exception for an answer that no Dropserve server gives."""
    return UnexpectedAnswerError(
        "unexpected_answer",
        f"{response.url.host} answered {response.status_code} with {what}; is this the address of "
        "a Dropserve server?",
        request_id=response.headers.get("x-request-id"),
        status=response.status_code,
        retry_after=retry_after,
    )


def connection_error(error: httpx.RequestError) -> ConnectionFailedError:
    """What the client raises where httpx found no answer."""
    url = error.request.url
    address = f"{url.scheme}://{url.netloc.decode()}"
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError("timed_out", f"the server at {address} did not answer in time")
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return ConnectionFailedError(
            "connection_failed", f"no server answers at {address} ({reason})"
        )
    return ConnectionFailedError(
        "connection_failed", f"the connection to {address} broke ({reason})"
    )


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if retry_after is None:
        return None
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())
