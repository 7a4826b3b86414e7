"""What is known of a request besides its answer: where its time went, and how it ended."""

from typing import NamedTuple


class RequestTimes:
    """Seconds that one request has spent on what takes long; filled in on its way.

    Attributes:
        decode: making pixels of the image file, a thread's queue included.
        queue: waiting for the engine.
        compute: in the engine's rounds, also where they were shared with other requests.
    """

    __slots__ = ("compute", "decode", "queue")

    def __init__(self) -> None:
        self.decode = 0.0
        self.queue = 0.0
        self.compute = 0.0


class EndedRequest(NamedTuple):
    """A request that has ended.

    Attributes:
        request_id: as the client was told it.
        method: of HTTP.
        route: see `app.api.routes`.
        status: of HTTP; 499, as nginx has it, if the client went away before its answer.
        code: of the error that was told, if one was.
        seconds: from the request's headers to the end of its answer.
        times: of which so much each for the stages.
    """

    request_id: str
    method: str
    route: str
    status: int
    code: str | None
    seconds: float
    times: RequestTimes


CLIENT_GONE = 499
