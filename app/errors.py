"""Every failure that the API reports: one table of codes, one exception, one body.

A message says what to do and never repeats what was sent: it may be secret, huge or markup.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

# How the commands end.
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ABSTAINED = 3
EXIT_INTERRUPTED = 130


class UsageError(Exception):
    """A command cannot be run as it was given; the text is one line for the user."""


class ErrorCode(Enum):
    """What went wrong: an HTTP status, a default message, and headers that HTTP wants with it.

    The body's `code` is the member's name in lower case.
    """

    EMPTY_BODY = (
        400,
        "the body is empty; send an image, as curl does with --data-binary @digit.png",
    )
    INVALID_ENCODING = (
        400,
        "the body is not what Content-Encoding says, or is cut off; send it again, or as it is",
    )
    INVALID_JSON = (400, 'the body is not valid JSON; send an object such as {"image": "<base64>"}')
    INVALID_MULTIPART = (
        400,
        "the form cannot be read; send the image as the file field named file",
    )
    TRUNCATED_IMAGE = 400, "the image is cut off before its end; send the whole file"
    CONFLICTING_PARAMETERS = (400, "a parameter is given twice with different values; give it once")
    INVALID_HTTP = 400, "this is no HTTP request that can be read; send HTTP/1.1"
    # Of the Open Inference Protocol, whose bodies have no codes: this one is for logs and metrics.
    INVALID_REQUEST = 400, "the request is not a V2 inference request"
    UNAUTHORIZED = (
        401,
        "this server wants an API key; send it in the header Authorization: Bearer KEY",
        {"WWW-Authenticate": 'Bearer realm="dropserve"'},
    )
    NOT_FOUND = 404, "there is nothing at this address; /docs lists what there is"
    METHOD_NOT_ALLOWED = (
        405,
        "this address does not take this method; the header Allow names those it takes",
    )
    USED_TOKEN = 409, "this feedback is counted already; a token can be used once"
    EXPIRED_TOKEN = 410, "the token is older than 24 hours; send feedback sooner"
    REQUEST_TIMEOUT = 408, "the request took too long to arrive; send it whole, without a pause"
    BODY_TOO_LARGE = 413, "the body is larger than this server accepts; send a smaller image"
    TOO_MANY_PIXELS = 413, "the image has more pixels than this server decodes; scale it down"
    TOO_MANY_IMAGES = (
        413,
        "the batch has more images than this server takes; send several smaller batches",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        415,
        "this content type is not supported; send an image, application/json or "
        "multipart/form-data",
    )
    NOT_AN_IMAGE = (
        415,
        "the bytes are not an image that can be read; send PNG, JPEG, WebP, BMP, GIF or TIFF",
    )
    INVALID_PARAMETER = (
        422,
        "a parameter has a value that it does not take; /docs lists the values",
    )
    UNKNOWN_PARAMETER = 422, "there is no such parameter; /docs lists those there are"
    INVALID_TOKEN = (
        422,
        "this is no token of these servers; send the answer's header x-feedback-token as it is",
    )
    INVALID_PIXELS = (
        422,
        "the pixels are not 28 rows of 28 integers from 0 to 255, where 255 is ink",
    )
    NO_INK = 422, "the image is uniform; send a digit that stands out from its background"
    OVERLOADED = (
        429,
        "the server has too much to do; try again after the seconds in Retry-After",
        {"Retry-After": "1"},
    )
    HEAD_TOO_LARGE = (
        431,
        "the address and the header lines are more than this server reads; send fewer",
    )
    INTERNAL = 500, "the server failed; its log has the cause under this request id"
    NOT_READY = (
        503,
        "the server is starting or stopping; try again in a moment",
        {"Retry-After": "1"},
    )
    DEADLINE_EXCEEDED = (
        504,
        "the answer took longer than timeout_ms; allow more time, or ask for fewer passes",
    )

    def __init__(
        self, status: int, message: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.status = status
        self.message = message
        self.headers = headers

    def __call__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> "ApiError":
        """The exception to raise; see `ApiError`."""
        return ApiError(self, message, param=param, headers=headers)

    @property
    def text(self) -> str:
        """What a program reads: `empty_body`."""
        return self.name.lower()


class ApiError(Exception):
    """A failure that is answered with the one error body.

    Args:
        kind: its row of the table.
        message: what a person reads; the table's without one.
        param: the parameter or field at fault, where there is one.
        headers: in place of the table's.

    Attributes:
        steps: of preparing the picture, if they were asked for; see `schemas.Prediction`.
        recheck: asks again for a request like the refused one, with the beginning of its body,
            and the size of the whole: milliseconds that it would wait; None: it is not refused,
            or nobody can say.
    """

    steps: Mapping[str, str] | None = None
    recheck: Callable[[bytes, int], int | None] | None = None

    def __init__(
        self,
        kind: ErrorCode,
        message: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.message = kind.message if message is None else message
        self.param = param
        self.headers = kind.headers if headers is None else headers
        self.status, self.code = kind.status, kind.text
        super().__init__(self.message)
