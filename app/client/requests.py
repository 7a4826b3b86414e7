"""Requests to the server: one image, batches of any size, streams."""

import inspect
import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import httpx
from pydantic.fields import FieldInfo

from ..schemas import McParameters, McPrediction, Prediction, PredictParameters
from .errors import DropserveError, ImageError, unexpected_answer
from .images import encode_image
from .responses import A, Results, parse_answer, parse_batch, read_response
from .retries import Flow, R, RetryPolicy, exchange

if TYPE_CHECKING:
    from .images import Image

P = ParamSpec("P")
Client = TypeVar("Client")
Images = TypeVar("Images")  # one or several

Parameters = Mapping[str, Any]  # by name; None is the server's default
Sent = bytes | Mapping[str, Any]  # an image file, or JSON

_PATHS: Mapping[type[Prediction], str] = {Prediction: "/predict", McPrediction: "/predict/mc"}

# A batch is sent in requests of at most this many images and bytes: less than a server with default
# settings takes, since base64 adds a third.
_IMAGES_PER_REQUEST = 64
_BYTES_PER_REQUEST = 6 * 2**20
# Requests of this many passes leave room for others in a server's queue.
_PASSES_PER_REQUEST = 8192
_DEFAULT_PASSES = McParameters().passes


def takes(
    parameters: Callable[P, PredictParameters],
) -> Callable[
    [Callable[Concatenate[Client, Images, ...], R]], Callable[Concatenate[Client, Images, P], R]
]:
    """Gives a method, instead of `**parameters`, the keyword arguments that the class declares.

    Type checkers, editors and `help` then know them. They are not checked here: a newer server may
    know further ones, and names the nearest to one that it does not know.
    """
    fields: Mapping[str, FieldInfo] = parameters.model_fields  # type: ignore[attr-defined]
    keyword = inspect.Parameter.KEYWORD_ONLY
    arguments = [
        inspect.Parameter(name, keyword, default=field.default, annotation=field.annotation)
        for name, field in fields.items()
    ]

    def decorate(method: Any) -> Any:
        signature = inspect.signature(method)
        client, images, _ = signature.parameters.values()
        method.__signature__ = signature.replace(parameters=[client, images, *arguments])
        return method

    return decorate


class Requests:
    """Flows from what a user gives to the result.

    Args:
        build: httpx's `build_request`, which knows the address and the headers.
        policy: for every request.
        model: which is asked; None: the server's default.
    """

    def __init__(
        self, build: Callable[..., httpx.Request], policy: RetryPolicy, model: str | None = None
    ) -> None:
        self._build = build
        self._policy = policy
        self._prefix = "" if model is None else f"/models/{quote(model, safe='')}"

    def predict(self, answer_type: type[A], image: "Image", parameters: Parameters) -> Flow[A]:
        """The answer to one image."""
        response = yield from self._post_image(_PATHS[answer_type], image, parameters)
        answer = read_response(
            response, lambda text: parse_answer(json.loads(text), text, answer_type)
        )
        vars(answer)["_feedback_token"] = response.headers.get("x-feedback-token")
        return answer

    def feedback(self, answer: Prediction, label: int | str) -> Flow[bool]:
        """Whether an answer was right, from its true class."""
        if answer.feedback_token is None:
            raise ValueError(
                "this answer has no feedback token: those of a stream and of several images have "
                "none, and the server needs DROPSERVE_FEEDBACK_SECRET"
            )
        body = {"token": answer.feedback_token, "label": label}  # the token names the model
        response = yield from exchange(self._build("POST", "/feedback", json=body), self._policy)
        return read_response(response, lambda text: bool(json.loads(text)["correct"]))

    def stream(self, image: "Image", parameters: Parameters) -> Flow[httpx.Response]:
        """The response whose body is the events of one image."""
        return self._post_image("/predict/mc/stream", image, parameters)

    def model(self) -> Flow[dict[str, Any]]:
        """The model card."""
        response = yield from exchange(self._build("GET", self._prefix or "/model"), self._policy)
        return read_response(response, lambda text: dict(json.loads(text)))

    def models(self) -> Flow[list[dict[str, Any]]]:
        """What the server serves."""
        response = yield from exchange(self._build("GET", "/models"), self._policy)
        return read_response(response, lambda text: list(json.loads(text)["models"]))

    def predict_batch(
        self, answer_type: type[A], images: "Iterable[Image]", parameters: Parameters
    ) -> Flow[Results[A]]:
        """The answer to each image, or its exception, from as many requests as necessary."""
        if isinstance(images, str | bytes | bytearray | PathLike):
            raise TypeError("a batch takes a list of images, and this is a single one")
        passes = parameters.get("passes") or _DEFAULT_PASSES
        max_images = max(1, min(_IMAGES_PER_REQUEST, _PASSES_PER_REQUEST // passes))
        results: Results[A] = []
        for chunk in _chunks(images, max_images):
            readable = [data for data in chunk if not isinstance(data, ImageError)]
            answers = iter((yield from self._predict_chunk(answer_type, readable, parameters)))
            results += [data if isinstance(data, ImageError) else next(answers) for data in chunk]
        return results

    def _post_image(
        self, path: str, image: "Image", parameters: Parameters
    ) -> Flow[httpx.Response]:
        sent = _encode(image)
        if isinstance(sent, Mapping):
            return self._post(path, parameters, json=sent)
        headers = {"content-type": "application/octet-stream"}  # the server finds the format
        return self._post(path, parameters, content=sent, headers=headers)

    def _post(self, path: str, parameters: Parameters, **body: Any) -> Flow[httpx.Response]:
        given = {name: value for name, value in parameters.items() if value is not None}
        return exchange(
            self._build("POST", self._prefix + path, params=given, **body), self._policy
        )

    def _predict_chunk(
        self, answer_type: type[A], images: Sequence[Sent], parameters: Parameters
    ) -> Flow[Results[A]]:
        if not images:
            return []
        if len(images) == 1:
            # A raw body may hold a larger image than JSON, and is read faster.
            try:
                return [(yield from self.predict(answer_type, images[0], parameters))]
            except ImageError as error:
                return [error]
        path = f"{_PATHS[answer_type]}/batch"
        batch = {
            "inputs": [
                each if isinstance(each, Mapping) else {"image": b64encode(each).decode()}
                for each in images
            ]
        }
        try:
            response = yield from self._post(path, parameters, json=batch)
        except DropserveError as error:
            if error.status != httpx.codes.REQUEST_ENTITY_TOO_LARGE:
                raise
            # This server's limits are lower than the default.
            half = len(images) // 2
            first = yield from self._predict_chunk(answer_type, images[:half], parameters)
            return first + (yield from self._predict_chunk(answer_type, images[half:], parameters))
        answers = read_response(response, lambda text: parse_batch(text, answer_type))
        if len(answers) != len(images):
            raise unexpected_answer(response, f"{len(answers)} answers to {len(images)} images")
        return answers


def _encode(image: Any) -> Sent:
    """What is sent of an image, or of the numbers of another network's input."""
    if not isinstance(image, Mapping):
        return encode_image(image)
    return {
        name: value.tolist() if hasattr(value, "tolist") else value for name, value in image.items()
    }


def _chunks(images: "Iterable[Image]", max_images: int) -> Iterator[list[Sent | ImageError]]:
    """The encoded images, or why they cannot be read, as many at a time as one request takes."""
    chunk: list[Sent | ImageError] = []
    size = 0
    for image in images:
        try:
            encoded: Sent | ImageError = _encode(image)
        except ImageError as error:
            encoded = error
        length = len(encoded) if isinstance(encoded, bytes) else 0
        if isinstance(encoded, Mapping):
            length = len(json.dumps(encoded))
        if chunk and (len(chunk) == max_images or size + length > _BYTES_PER_REQUEST):
            yield chunk
            chunk, size = [], 0
        chunk.append(encoded)
        size += length
    if chunk:
        yield chunk
