"""What is known of a request besides its answer: where its time went, and how it ended."""

from typing import NamedTuple

# Of a client that went away before its answer, as in nginx.
CLIENT_GONE = 499


class Timings(NamedTuple):
    """Where the time of an answered request went, in seconds.

    Attributes:
        decode: reading the image file into pixels, the thread's queue included.
        queue: waiting for the engine.
        compute: in the engine's rounds, also where they were shared with other requests.
    """

    decode: float = 0.0
    queue: float = 0.0
    compute: float = 0.0


class RequestRecord(NamedTuple):
    """A request that has ended.

    Attributes:
        request_id: as the client received it.
        method: of HTTP.
        route: see `app.api.routes`.
        status: of HTTP; 499 if the client went away before its answer.
        code: of the error, if there was one.
        seconds: from the request's headers to the end of its answer.
        timings: the parts of it.
    """

    request_id: str
    method: str
    route: str
    status: int
    code: str | None
    seconds: float
    timings: Timings
