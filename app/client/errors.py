"""What can go wrong when a Dropserve server is asked: one tree.

DropserveError
├── ConnectionFailedError       no answer: nothing listens there, or the connection broke
│   └── TimedOutError           the answer took longer than the client waits
├── UnexpectedAnswerError       an answer, but not in Dropserve's form: a proxy, another server
├── ImageError                  this image cannot be answered; other images can
├── RequestError                the request is wrong: a parameter, the address, the key
├── BusyError                   overloaded, starting or stopping; repeating did not help
├── DeadlineExceededError       the answer was not ready within timeout_ms
└── ServerFailedError           a defect of the server
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


class DropserveError(Exception):
    """Base of every error that the client raises on purpose.

    Attributes:
        code: for programs: the server's, such as `no_ink`, or one of the client's own:
            `connection_failed`, `timed_out`, `unexpected_answer`, `unreadable_file`,
            `invalid_array`.
        message: for people: what to do.
        param: the parameter at fault, if one is.
        request_id: under which the server's log tells more; None without an answer, and for one
            image of a batch.
        status: the HTTP status; None without an answer of its own.
        retry_after: seconds after which the server wants to be asked again, if it said so.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        request_id: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.request_id = request_id
        self.status = status
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles whole, so that it comes out of a process pool as it went in."""
        return _rebuild, (type(self), vars(self).copy())


class ConnectionFailedError(DropserveError):
    """There was no answer: nothing listens at the address, or the connection broke."""


class TimedOutError(ConnectionFailedError):
    """There was no answer within the client's `timeout`."""


class UnexpectedAnswerError(DropserveError):
    """An answer that is not in Dropserve's form."""


class ImageError(DropserveError):
    """The image cannot be read, or shows nothing; `status` is None if it was never sent."""


class RequestError(DropserveError):
    """The request as a whole is wrong, whatever the image."""


class BusyError(DropserveError):
    """The server has too much to do, or is starting or stopping."""


class DeadlineExceededError(DropserveError):
    """The answer was not ready within `timeout_ms`."""


class ServerFailedError(DropserveError):
    """The server failed; its log tells more under the request id."""


_IMAGE_CODES = frozenset(
    {
        "empty_body",
        "truncated_image",
        "body_too_large",
        "too_many_pixels",
        "unsupported_media_type",
        "not_an_image",
        "invalid_pixels",
        "no_ink",
    }
)
_BY_STATUS: Mapping[int, type[DropserveError]] = MappingProxyType(
    {429: BusyError, 503: BusyError, 504: DeadlineExceededError}
)


def error_from_answer(
    detail: Mapping[str, Any], status: int | None, retry_after: float | None = None
) -> DropserveError:
    """The exception for the server's error shape.

    Args:
        detail: `code` and `message`, perhaps `param` and `request_id`.
        status: of the answer; None for the error of one image of a batch.
        retry_after: seconds, if the answer said so.
    """
    code = str(detail["code"])
    error_type: type[DropserveError]
    if code in _IMAGE_CODES:
        error_type = ImageError
    elif status is None:
        error_type = ServerFailedError if code == "internal" else ImageError
    else:
        fallback = ServerFailedError if status >= 500 else RequestError
        error_type = _BY_STATUS.get(status, fallback)
    return error_type(
        code,
        str(detail["message"]),
        param=detail.get("param"),
        request_id=detail.get("request_id"),
        status=status,
        retry_after=retry_after,
    )


def _rebuild(error_type: type[DropserveError], attributes: dict[str, Any]) -> DropserveError:
    return error_type(**attributes)
