"""What a server can be asked, and what its answers say; the clients only take the steps."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import httpx

from .errors import (
    ConnectionFailedError,
    DropserveError,
    ImageError,
    error_from_answer,
)
from .images import encode_image
from .results import McPrediction, P, parse_prediction, split_batch
from .retries import R, RetryPolicy, Steps, exchange, unexpected_answer

if TYPE_CHECKING:
    from .images import Image

BuildRequest = Callable[..., httpx.Request]
# Parameters of the API by name; None is the server's default.
Options = Mapping[str, object]

# Of a batch, so many images go in one request at most, and so many bytes: less than a server with
# default settings takes, since base64 adds a third.
_IMAGES_PER_REQUEST = 64
_BYTES_PER_REQUEST = 6 * 2**20
# So many passes in one request still leave room for others in a server's queue.
_PASSES_PER_REQUEST = 8192
_DEFAULT_PASSES = 50


class Questions:
    """What can be asked, each as the steps to its answer.

    Args:
        build: httpx's `build_request`, which knows the address and the headers.
        policy: for every request.
    """

    def __init__(self, build: BuildRequest, policy: RetryPolicy) -> None:
        self._build = build
        self._policy = policy

    def ask(self, path: str, image: "Image", options: Options, result_type: type[P]) -> Steps[P]:
        """One image's answer."""
        request = self._image_request(path, encode_image(image), options)
        response = yield from exchange(request, self._policy)
        return _parse(response, lambda text: parse_prediction(json.loads(text), text, result_type))

    def open_stream(self, image: "Image", options: Options) -> Steps[httpx.Response]:
        """The response to one image whose body is the events."""
        request = self._image_request("/predict/mc/stream", encode_image(image), options)
        return exchange(request, self._policy)

    def ask_model(self) -> Steps[dict[str, Any]]:
        """What is known about the network."""
        response = yield from exchange(self._build("GET", "/model"), self._policy)
        return _parse(response, lambda text: dict(json.loads(text)))

    def ask_batch(
        self, path: str, images: "Iterable[Image]", options: Options, result_type: type[P]
    ) -> Steps[list[P | DropserveError]]:
        """Many images' answers, in as many requests as it takes.

        Args:
            path: of the route for one image; the batch route is below it.
            images: read a request at a time.
            options: of every image.
            result_type: of every answer.

        Returns:
            In the order of the images, an answer each, or what is wrong with the image.
        """
        if isinstance(images, str | bytes | bytearray | PathLike):
            raise TypeError("a batch takes a list of images, and this is a single one")
        passes: Any = options.get("passes") or _DEFAULT_PASSES
        most = max(1, min(_IMAGES_PER_REQUEST, _PASSES_PER_REQUEST // passes))
        results: list[P | DropserveError] = []
        for chunk in _chunks(_encoded(images), most):
            good = [data for data in chunk if isinstance(data, bytes)]
            answers = iter((yield from self._ask_some(path, good, options, result_type)))
            results += [next(answers) if isinstance(data, bytes) else data for data in chunk]
        return results

    def _ask_some(
        self, path: str, images: Sequence[bytes], options: Options, result_type: type[P]
    ) -> Steps[list[P | DropserveError]]:
        if not images:
            return []
        if len(images) == 1:
            # A raw body may hold a larger image than JSON, and is read faster.
            try:
                return [(yield from self.ask(path, images[0], options, result_type))]
            except ImageError as error:
                return [error]
        inputs = [{"image": b64encode(data).decode()} for data in images]
        request = self._build(
            "POST", f"{path}/batch", params=_given(options), json={"inputs": inputs}
        )
        try:
            response = yield from exchange(request, self._policy)
        except DropserveError as error:
            if error.status != 413:
                raise
            # This server's limits are lower than most.
            half = len(images) // 2
            first = yield from self._ask_some(path, images[:half], options, result_type)
            second = yield from self._ask_some(path, images[half:], options, result_type)
            return first + second
        answers = _parse(response, lambda text: _parse_batch(text, result_type))
        if len(answers) != len(images):
            raise unexpected_answer(response, f"{len(answers)} answers to {len(images)} images")
        return answers

    def _image_request(self, path: str, data: bytes, options: Options) -> httpx.Request:
        headers = {"content-type": "application/octet-stream"}  # the server tells the format
        return self._build("POST", path, params=_given(options), content=data, headers=headers)


class EventReader:
    """Server-sent events -> answers; raises what the server reports as an error."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._buffer = b""
        self._has_result = False

    def feed(self, chunk: bytes) -> Iterator[McPrediction]:
        """The answers that are complete with these bytes.

        Raises:
            DropserveError: the server reports an error.
        """
        *events, self._buffer = (self._buffer + chunk).split(b"\n\n")
        for event in events:
            lines = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
            name, data = lines.get(b"event", b""), lines.get(b"data", b"").decode()
            if name == b"error":
                raise error_from_answer(json.loads(data)["error"], self._response.status_code)
            if name in (b"estimate", b"result"):
                self._has_result = name == b"result"
                yield parse_prediction(json.loads(data), data, McPrediction)

    def finish(self) -> None:
        """To be called at the end.

        Raises:
            ConnectionFailedError: there was no result.
        """
        if not self._has_result:
            raise ConnectionFailedError(
                "connection_failed", "the stream ended before its result; ask again"
            )


def _parse(response: httpx.Response, parse: Callable[[str], R]) -> R:
    """What `parse` makes of the body.

    Raises:
        UnexpectedAnswerError: it is no answer of Dropserve's.
    """
    try:
        return parse(response.text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise unexpected_answer(response, "no answer of Dropserve's") from error


def _given(options: Options) -> dict[str, Any]:
    """None stands for the server's default."""
    return {name: value for name, value in options.items() if value is not None}


def _parse_batch(text: str, result_type: type[P]) -> list[P | DropserveError]:
    return [
        error_from_answer(answer["error"], None)
        if "error" in answer
        else parse_prediction(answer, part, result_type)
        for answer, part in split_batch(text)
    ]


def _encoded(images: "Iterable[Image]") -> Iterator[bytes | ImageError]:
    for image in images:
        try:
            yield encode_image(image)
        except ImageError as error:
            yield error


def _chunks(images: Iterable[bytes | ImageError], most: int) -> Iterator[list[bytes | ImageError]]:
    chunk: list[bytes | ImageError] = []
    size = 0
    for image in images:
        bytes_more = len(image) if isinstance(image, bytes) else 0
        if chunk and (len(chunk) == most or size + bytes_more > _BYTES_PER_REQUEST):
            yield chunk
            chunk, size = [], 0
        chunk.append(image)
        size += bytes_more
    if chunk:
        yield chunk
