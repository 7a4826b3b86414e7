"""The exceptions of the client.

DropserveError
├── ConnectionFailedError       no server at the address, or the connection broke
│   └── TimedOutError           the server did not answer within the client's timeout
├── UnexpectedAnswerError       the answer is not Dropserve's: a proxy, another server
├── ImageError                  this image has no answer; other images may have one
├── RequestError                the request is wrong: a parameter, the address, the key
├── BusyError                   overloaded, starting or stopping; retries did not help
├── DeadlineExceededError       the answer was not ready within timeout_ms
└── ServerFailedError           a defect of the server
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from ..errors import ErrorCode


@dataclass(eq=False)
class DropserveError(Exception):
    """Base of every error that the client raises.

    Attributes:
        code: for programs: the server's, such as `no_ink`, or one of the client's own:
            `connection_failed`, `timed_out`, `unexpected_answer`, `unreadable_file`,
            `invalid_array`.
        message: for people: what to do.
        param: the parameter at fault, or None.
        request_id: the request's id in the server's log; None without a response, and for one
            image of a batch.
        trace_id: of the trace that the request's header `traceparent` named, or None.
        status: the HTTP status; None without a response, and for one image of a batch.
        retry_after: seconds after which the server wants the request again, or None.
        steps: with `return_steps`, small PNGs of the steps of preparing the picture, in base64.
    """

    code: str
    message: str
    _: KW_ONLY
    param: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    status: int | None = None
    retry_after: float | None = None
    steps: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self.args = (self.code, self.message)  # pickles and copies are made of them

    def __str__(self) -> str:
        return self.message


class ConnectionFailedError(DropserveError):
    """There is no server at the address, or the connection broke."""


class TimedOutError(ConnectionFailedError):
    """The server did not answer within the client's `timeout`."""


class UnexpectedAnswerError(DropserveError):
    """The answer does not have the form of Dropserve's answers."""


class ImageError(DropserveError):
    """The image cannot be read, or shows nothing; `status` is None if it was never sent."""


class RequestError(DropserveError):
    """The request is wrong, whatever the image."""


class BusyError(DropserveError):
    """The server is overloaded, starting or stopping."""


class DeadlineExceededError(DropserveError):
    """The answer was not ready within `timeout_ms`."""


class ServerFailedError(DropserveError):
    """The server failed; its log has the cause under the request id."""


# What is wrong with one image, whatever the status.
_IMAGE_CODES = {
    *("empty_body", "truncated_image", "body_too_large", "too_many_pixels"),
    *("unsupported_media_type", "not_an_image", "invalid_pixels", "no_ink"),
}
# For any other code, since a newer server may have further ones.
_BY_STATUS = {429: BusyError, 503: BusyError, 504: DeadlineExceededError}


def error_from_body(
    error: Mapping[str, Any], status: int | None, retry_after: float | None = None
) -> DropserveError:
    """The exception for an `error` object of the API.

    Args:
        error: `code` and `message`, and where they apply `param` and `request_id`.
        status: of the response; None for one image of a batch.
        retry_after: seconds, if the response has them.
    """
    code = str(error["code"])
    if code in _IMAGE_CODES or (status is None and code != ErrorCode.INTERNAL.text):
        kind: type[DropserveError] = ImageError
    else:
        status_or_500 = status or 500
        other = ServerFailedError if status_or_500 >= 500 else RequestError
        kind = _BY_STATUS.get(status_or_500, other)
    return kind(
        code,
        str(error["message"]),
        param=error.get("param"),
        steps=error.get("steps"),
        request_id=error.get("request_id"),
        trace_id=error.get("trace_id"),
        status=status,
        retry_after=retry_after,
    )


def error_from_response(response: httpx.Response) -> DropserveError:
    """The exception for a response that is no success."""
    retry_after = _retry_after(response.headers)
    try:
        return error_from_body(response.json()["error"], response.status_code, retry_after)
    except (ValueError, TypeError, KeyError):
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            return _proxys_limit(response)
        return unexpected_answer(response, "an error in another form than Dropserve's", retry_after)


def _proxys_limit(response: httpx.Response) -> ImageError:
    """The exception for a body that never reached the server."""
    name = response.headers.get("server", "it does not say which")
    return ImageError(
        ErrorCode.BODY_TOO_LARGE.text,
        f"a proxy in front of the server ({name}) refused the body as too large; send a smaller "
        "image, or raise the proxy's limit (nginx: client_max_body_size)",
        status=response.status_code,
    )


def unexpected_answer(
    response: httpx.Response, what: str, retry_after: float | None = None
) -> UnexpectedAnswerError:
    """The exception for a response that no Dropserve server gives."""
    return UnexpectedAnswerError(
        "unexpected_answer",
        f"{response.url.host} answered {response.status_code} with {what}; is this the address of "
        "a Dropserve server?",
        request_id=response.headers.get("x-request-id"),
        status=response.status_code,
        retry_after=retry_after,
    )


def connection_error(error: httpx.RequestError) -> ConnectionFailedError:
    """The exception for a request without a response."""
    url = error.request.url
    address = f"{url.scheme}://{url.netloc.decode()}"
    if (variable := error.request.extensions.get("proxy_variable")) is not None:
        address += f" through the proxy of {variable}"
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError("timed_out", f"the server at {address} did not answer in time")
    reason = str(error) or type(error).__name__
    failure = f"the connection to {address} broke"
    if isinstance(error, httpx.ConnectError):
        failure = f"no server answers at {address}"
    return ConnectionFailedError("connection_failed", f"{failure} ({reason})")


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After-Ms`, or from `Retry-After`, which has whole seconds or a date."""
    milliseconds = headers.get("retry-after-ms", "")
    if milliseconds.isdecimal():
        return float(milliseconds) / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date.astimezone(UTC) - datetime.now(UTC)).total_seconds())
