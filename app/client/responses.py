"""Responses of the server -> answers; fields that this version does not know are kept."""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any, TypeVar, get_args

import httpx

from ..schemas import McPrediction, Prediction
from .errors import ConnectionFailedError, DropserveError, error_from_body, unexpected_answer

A = TypeVar("A", bound=Prediction)
T = TypeVar("T")
Results = list[A | DropserveError]  # an image without an answer has its exception

_PREDICTIONS = re.compile(r'"predictions"\s*:\s*\[[\s,]*')
_BETWEEN = re.compile(r"[\s,]*")


def read_response(response: httpx.Response, parse: Callable[[str], T]) -> T:
    """The result of `parse` for the body.

    Raises:
        UnexpectedAnswerError: the body does not have the form of Dropserve's answers.
    """
    try:
        return parse(response.text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise unexpected_answer(response, "a body in another form than Dropserve's") from error


def parse_answer(values: Mapping[str, Any], text: str, answer_type: type[A]) -> A:
    """One answer.

    Args:
        values: the parsed JSON.
        text: the JSON itself.
        answer_type: Prediction or McPrediction.

    Raises:
        TypeError: a field that every answer has is missing, or of another kind.
    """
    answer = _build(answer_type, values)
    known = {field.name for field in dataclasses.fields(answer_type)}
    extra = {name: value for name, value in values.items() if name not in known}
    vars(answer).update(_raw=text, _extra=extra)
    return answer


def _build(answer_type: type[T], values: Mapping[str, Any]) -> T:
    known = dataclasses.fields(answer_type)  # type: ignore[arg-type]
    return answer_type(
        **{each.name: _value(values[each.name], each.type) for each in known if each.name in values}
    )


def _value(value: Any, declared: Any) -> Any:
    """A field's value: an object is an instance of the declared dataclass, a list is a tuple."""
    if isinstance(value, list):
        return tuple(_value(each, None) for each in value)
    options = get_args(declared) or (declared,)
    nested: Any = next(filter(dataclasses.is_dataclass, options), None)
    if nested is None or (value is None and NoneType in options):
        return value
    return _build(nested, value)


def parse_batch(text: str, answer_type: type[A]) -> Results[A]:
    """The answer of each image, or the exception for it."""
    return [
        error_from_body(values["error"], None)
        if "error" in values
        else parse_answer(values, part, answer_type)
        for values, part in split_batch(text)
    ]


def split_batch(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each element of `predictions`, parsed, and its JSON as the server wrote it.

    The text is cut instead of encoded again, which would write numbers in another form.

    Raises:
        ValueError: this is no batch.
    """
    start = _PREDICTIONS.search(text)
    if start is None:
        raise ValueError("no predictions")
    decoder = json.JSONDecoder()
    position = start.end()
    while not text.startswith("]", position):
        element, end = decoder.raw_decode(text, position)
        if not isinstance(element, dict):
            raise ValueError("a prediction is an object")
        yield element, text[position:end]
        between = _BETWEEN.match(text, end)
        position = between.end() if between else end


@dataclasses.dataclass
class EventReader:
    """Server-sent events -> answers."""

    response: httpx.Response
    _buffer: bytes = b""
    _has_result: bool = False
    _process: int = dataclasses.field(default_factory=os.getpid)

    def feed(self, chunk: bytes) -> Iterator[McPrediction]:
        """The answers that are complete with these bytes.

        Raises:
            DropserveError: the server reports an error.
            RuntimeError: the process was forked since the stream began.
        """
        *events, self._buffer = (self._buffer + chunk).split(b"\n\n")
        for event in events:
            lines = dict(line.partition(b": ")[::2] for line in event.split(b"\n"))
            name, data = lines.get(b"event", b""), lines.get(b"data", b"").decode()
            if name == b"error":
                raise error_from_body(json.loads(data)["error"], self.response.status_code)
            if name in (b"estimate", b"result"):
                self._has_result = name == b"result"
                yield parse_answer(json.loads(data), data, McPrediction)
                if os.getpid() != self._process:  # reading on would take the bytes of the parent
                    raise RuntimeError("the parent process reads this stream; ask for another one")

    def finish(self) -> None:
        """Checks, at the end of the body, that there was a result.

        Raises:
            ConnectionFailedError: there was none.
        """
        if not self._has_result:
            raise ConnectionFailedError(
                "connection_failed", "the stream ended before its result; send the request again"
            )
