"""Every failure that the API reports: one class per code, one table, one body.

ApiError
├── BadRequestError                 400
│   ├── EmptyBodyError                  empty_body
│   ├── InvalidJsonError                invalid_json
│   ├── InvalidMultipartError           invalid_multipart
│   ├── TruncatedImageError             truncated_image
│   ├── ConflictingParametersError      conflicting_parameters
│   ├── PageRefusedError                page_refused
│   └── InvalidHttpError                invalid_http
├── UnauthorizedError               401 unauthorized
├── NotFoundError                   404 not_found
├── MethodNotAllowedError           405 method_not_allowed
├── RequestTimeoutError             408 request_timeout
├── TooLargeError                   413
│   ├── BodyTooLargeError               body_too_large
│   ├── TooManyPixelsError              too_many_pixels
│   └── TooManyImagesError              too_many_images
├── UnsupportedError                415
│   ├── UnsupportedMediaTypeError       unsupported_media_type
│   └── NotAnImageError                 not_an_image
├── UnprocessableError              422
│   ├── InvalidParameterError           invalid_parameter
│   ├── UnknownParameterError           unknown_parameter
│   ├── InvalidPixelsError              invalid_pixels
│   └── NoInkError                      no_ink
├── OverloadedError                 429 overloaded
├── HeadTooLargeError               431 head_too_large
├── NotReadyError                   503 not_ready
├── DeadlineExceededError           504 deadline_exceeded
└── InternalError                   500 internal

A message says what to do and never repeats what was sent: it may be secret, huge or markup.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

import model.errors

# How the commands end.
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_ABSTAINED = 3
EXIT_INTERRUPTED = 130


class ApiError(Exception):
    """Base of everything that is answered with the one error body.

    Attributes:
        status: the HTTP status.
        code: what a program reads; empty on classes that only group others.
        message: what a person reads; a class that needs no details has one of its own.
        param: the parameter or field at fault, where there is one.
        headers: what HTTP wants besides the body, such as Retry-After or Allow.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = ""

    message: str = "the request failed"
    param: str | None = None
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if message is not None:
            self.message = message
        if param is not None:
            self.param = param
        if headers is not None:
            self.headers = MappingProxyType(dict(headers))
        super().__init__(self.message)


class BadRequestError(ApiError):
    """The request cannot be read."""

    status = 400


class EmptyBodyError(BadRequestError):
    """Nothing was sent."""

    code = "empty_body"
    message = "the body is empty; send an image, as curl does with --data-binary @digit.png"


class InvalidJsonError(BadRequestError):
    """The body claims to be JSON and is not."""

    code = "invalid_json"
    message = 'the body is not valid JSON; send an object such as {"image": "<base64>"}'


class InvalidMultipartError(BadRequestError):
    """The body claims to be multipart/form-data and is not, or has not the parts it needs."""

    code = "invalid_multipart"
    message = "the form cannot be read; send the image as the file field named file"


class TruncatedImageError(BadRequestError):
    """The beginning of an image, without its end."""

    code = "truncated_image"
    message = "the image is cut off before its end; send the whole file"


class ConflictingParametersError(BadRequestError):
    """The same parameter twice, with different values."""

    code = "conflicting_parameters"
    message = "a parameter is given twice with different values; give it once"


class PageRefusedError(BadRequestError):
    """A browser asks whether a page of another origin may ask, and it may not."""

    code = "page_refused"
    message = (
        "this page may not ask so; DROPSERVE_CORS_ORIGINS must name its origin, and pages may send "
        "GET and POST with the headers of this API only"
    )


class InvalidHttpError(BadRequestError):
    """Bytes that are no HTTP request."""

    code = "invalid_http"
    message = "this is no HTTP request that can be read; send HTTP/1.1"


class UnauthorizedError(ApiError):
    """No key, or none that this server knows."""

    status = 401
    code = "unauthorized"
    message = "this server wants an API key; send it in the header Authorization: Bearer KEY"
    headers = MappingProxyType({"WWW-Authenticate": 'Bearer realm="dropserve"'})


class NotFoundError(ApiError):
    """No such route."""

    status = 404
    code = "not_found"
    message = "there is nothing at this address; /docs lists what there is"


class MethodNotAllowedError(ApiError):
    """The route exists, the method does not; `headers` must hold Allow."""

    status = 405
    code = "method_not_allowed"
    message = "this address does not take this method; the header Allow names those it takes"


class RequestTimeoutError(ApiError):
    """A request that does not come to its end."""

    status = 408
    code = "request_timeout"
    message = "the request took too long to arrive; send it whole, without a pause"


class TooLargeError(ApiError):
    """A limit of the server."""

    status = 413


class BodyTooLargeError(TooLargeError):
    """More bytes than the server reads."""

    code = "body_too_large"
    message = "the body is larger than this server accepts; send a smaller image"


class TooManyPixelsError(TooLargeError):
    """More pixels than the server decodes."""

    code = "too_many_pixels"
    message = "the image has more pixels than this server decodes; scale it down"


class TooManyImagesError(TooLargeError):
    """A batch of more images than the server takes at once."""

    code = "too_many_images"
    message = "the batch has more images than this server takes; send several smaller batches"


class UnsupportedError(ApiError):
    """Not a kind of content that can be answered."""

    status = 415


class UnsupportedMediaTypeError(UnsupportedError):
    """A content type, or a kind of image, that is not read here."""

    code = "unsupported_media_type"
    message = (
        "this content type is not supported; send an image, application/json or multipart/form-data"
    )


class NotAnImageError(UnsupportedError):
    """Bytes that no decoder takes."""

    code = "not_an_image"
    message = "the bytes are not an image that can be read; send PNG, JPEG, WebP, BMP, GIF or TIFF"


class UnprocessableError(ApiError):
    """Readable, but impossible."""

    status = 422


class InvalidParameterError(UnprocessableError):
    """A known parameter with a value outside what it takes."""

    code = "invalid_parameter"
    message = "a parameter has a value that it does not take; /docs lists the values"


class UnknownParameterError(UnprocessableError):
    """A parameter or field that does not exist; the message names the nearest that does."""

    code = "unknown_parameter"
    message = "there is no such parameter; /docs lists those there are"


class InvalidPixelsError(UnprocessableError):
    """Pixel values or dimensions outside what the network is defined for."""

    code = "invalid_pixels"
    message = "the pixels are not 28 rows of 28 integers from 0 to 255, where 255 is ink"


class NoInkError(UnprocessableError):
    """A uniform image."""

    code = "no_ink"
    message = "the image is uniform; send a digit that stands out from its background"


class OverloadedError(ApiError):
    """More work is queued than the server will promise to do; `headers` must hold Retry-After."""

    status = 429
    code = "overloaded"
    message = "the server has too much to do; try again after the seconds in Retry-After"


class HeadTooLargeError(ApiError):
    """More header lines, or a longer address and headers, than the server reads."""

    status = 431
    code = "head_too_large"
    message = "the address and the header lines are more than this server reads; send fewer"


class NotReadyError(ApiError):
    """Warming up, or draining before the end."""

    status = 503
    code = "not_ready"
    message = "the server is starting or stopping; try again in a moment"
    headers = MappingProxyType({"Retry-After": "1"})


class DeadlineExceededError(ApiError):
    """The answer was not ready in time."""

    status = 504
    code = "deadline_exceeded"
    message = "the answer took longer than timeout_ms; allow more time, or ask for fewer passes"


class InternalError(ApiError):
    """A defect of the server; what happened is in its log, under the request id."""

    status = 500
    code = "internal"
    message = "the server failed; its log tells more under this request id"


def _leaves(error_class: type[ApiError]) -> Iterator[type[ApiError]]:
    if error_class.code:
        yield error_class
    for subclass in error_class.__subclasses__():
        yield from _leaves(subclass)


# The one table: exception -> (status, code).
STATUS_AND_CODE: Mapping[type[ApiError], tuple[int, str]] = MappingProxyType(
    {error_class: (error_class.status, error_class.code) for error_class in _leaves(ApiError)}
)

_FROM_MODEL: Mapping[type[model.errors.ImageError], type[ApiError]] = MappingProxyType(
    {
        model.errors.InvalidPixelsError: InvalidPixelsError,
        model.errors.NoInkError: NoInkError,
    }
)


def from_image_error(error: model.errors.ImageError, *, param: str | None = None) -> ApiError:
    """What the API answers when `model` refuses an image; the message stays.

    Args:
        error: as raised by `model.digits.preprocessing`.
        param: the field that the image came in, where it has a name.
    """
    return _FROM_MODEL[type(error)](str(error), param=param)


def error_body(error: ApiError, request_id: str | None) -> dict[str, dict[str, str | None]]:
    """The one error shape, as JSON types."""
    return {
        "error": {
            "code": error.code,
            "message": error.message,
            "param": error.param,
            "request_id": request_id,
        }
    }
