"""How a request ended and where its time went, for metrics and the access log."""

from typing import NamedTuple

# The status that nginx logs when the client disconnects before its answer.
CLIENT_GONE = 499


class Timings(NamedTuple):
    """Seconds that a prediction spent in each stage.

    Attributes:
        decode: decoding and preparing images, with the wait for a thread or for others' stages.
        queue: waiting for the engine.
        compute: computing its passes and making its answers.
    """

    decode: float = 0.0
    queue: float = 0.0
    compute: float = 0.0


class RouteLabels(NamedTuple):
    """The values that the label `route` has in an application.

    Attributes:
        every: all of them.
        predictions: those whose requests have stages: decode, queue and compute.
    """

    every: tuple[str, ...]
    predictions: tuple[str, ...]


class RequestRecord(NamedTuple):
    """A finished request.

    Attributes:
        request_id: the value of the header `x-request-id`.
        method: the HTTP method.
        route: the route's label, never the address itself.
        status: the HTTP status, or `CLIENT_GONE`.
        code: the code of the error answer, if it was one.
        seconds: from the request's headers to the end of its answer.
        timings: how a prediction spent this time.
        model: which was asked, if one was.
        trace_id: of the trace that the client named, if it did.
    """

    request_id: str
    method: str
    route: str
    status: int
    code: str | None
    seconds: float
    timings: Timings
    model: str | None = None
    trace_id: str | None = None
