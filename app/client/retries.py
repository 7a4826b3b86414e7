"""When a request is sent again.

The clients share their logic as generators, like httpx's authentication flows: a flow yields what
the client has to do, and is sent the outcome. Only the doing differs between the synchronous and
the asynchronous client, and tests need neither a network nor time.
"""

import random
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import httpx

from .errors import connection_error, error_from_response

R = TypeVar("R")
Outcome = httpx.Response | httpx.RequestError | None  # None starts a flow
# Yields seconds to wait and then a request to send; is sent the outcome; returns its result.
Flow = Generator[tuple[float, httpx.Request], Outcome, R]

_FIRST_WAIT_SECONDS = 0.2
_BUSY = (429, 503)
# The connection was never made, or broke. A request changes nothing on the server, so repeating it
# is safe. A server that is merely slow does not get it twice.
_BROKEN = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


@dataclass(frozen=True)
class RetryPolicy:
    """How often a request is repeated when there is no server, or a busy one.

    Attributes:
        retries: the maximum number of repetitions.
        max_wait_seconds: the maximum time between the attempts, summed up. If a server demands a
            longer wait by Retry-After, the request fails at once.
    """

    retries: int = 3
    max_wait_seconds: float = 30.0


def exchange(request: httpx.Request, policy: RetryPolicy) -> Flow[httpx.Response]:
    """Sends a request until it succeeds; returns the response.

    Raises:
        DropserveError: it did not succeed.
    """
    remaining_seconds = policy.max_wait_seconds
    wait_seconds = 0.0
    for retry in range(policy.retries + 1):
        outcome = yield wait_seconds, request
        if isinstance(outcome, httpx.Response):
            if outcome.is_success:
                return outcome
            error = error_from_response(outcome)
            may_retry = outcome.status_code in _BUSY
        else:
            assert outcome is not None
            error = connection_error(outcome)
            may_retry = isinstance(outcome, _BROKEN)
        # Callers who failed together should not come back together.
        spread = random.uniform(0.5, 1.0)  # nosec B311: nobody gains by guessing it
        wait_seconds = (error.retry_after or 0.0) + _FIRST_WAIT_SECONDS * 2**retry * spread
        if not may_retry or retry == policy.retries or wait_seconds > remaining_seconds:
            raise error from (outcome if isinstance(outcome, Exception) else None)
        remaining_seconds -= wait_seconds
    raise AssertionError("the last attempt returns or raises")
