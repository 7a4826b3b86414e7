"""The server's answers as frozen objects; fields that this version does not know are kept."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

_PREDICTIONS = re.compile(r'"predictions"\s*:\s*\[')
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True)
class ModelIdentity:
    """Which network answered: the data set it was trained on, and its checkpoint's version."""

    name: str
    version: str


@dataclass(frozen=True)
class Decision:
    """Whether the network would rather not answer.

    Attributes:
        outcome: `accept` or `abstain`.
        reason: why it abstains: `ambiguous`, `unfamiliar` or `several_digits`; else None.
        score: the doubt that decided: predictive entropy, nats.
        threshold: the most doubt that is accepted.
        boxes: where several digits were found: left, top, right and bottom of each; else None.
    """

    outcome: str
    reason: str | None = None
    score: float | None = None
    threshold: float | None = None
    boxes: tuple[tuple[int, ...], ...] | None = None

    @property
    def abstains(self) -> bool:
        """Whether a person should look."""
        return self.outcome == "abstain"


@dataclass(frozen=True)
class Prediction:
    """A deterministic answer: dropout off. GET /docs of the server describes each field.

    Attributes:
        decision: None while the checkpoint has no threshold.
        input: 28 rows of 28, only with `return_input`.
        prediction_set: indices of the classes that the answer may be, only with `coverage`.
        extra: fields of the answer that this version of the client does not know.
        raw: the answer's JSON, byte for byte as the server wrote it.
    """

    digit: int
    label: str
    confidence: float
    probabilities: tuple[float, ...]
    predictive_entropy: float
    model: ModelIdentity
    decision: Decision | None = None
    input: tuple[tuple[int, ...], ...] | None = None
    prediction_set: tuple[int, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    raw: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class McPrediction(Prediction):
    """An MC-dropout answer: N passes with dropout on, or an estimate on the way to it.

    Attributes:
        variance: per class, None for one pass; likewise `standard_error`.
        votes: how many passes chose each class.
        stop_reason: `passes` or `standard_error`; None in an estimate of a stream.
        seed: sent again, it gives the same answer.
        pass_probabilities: of each pass, only with `return_passes`.
        dropped: per pass the dropped neurons, base64 bits, only with `return_passes`.
    """

    mean: tuple[float, ...]
    variance: tuple[float, ...] | None
    standard_error: tuple[float, ...] | None
    expected_entropy: float
    mutual_information: float
    votes: tuple[int, ...]
    passes: int
    stop_reason: str | None
    seed: int
    estimator: str
    pass_probabilities: tuple[tuple[float, ...], ...] | None = None
    dropped: tuple[str, ...] | None = None

    @property
    def is_final(self) -> bool:
        """False for the estimates of a stream."""
        return self.stop_reason is not None


P = TypeVar("P", bound=Prediction)


def parse_prediction(answer: Mapping[str, Any], text: str, result_type: type[P]) -> P:
    """One answer as an object.

    Args:
        answer: the parsed JSON.
        text: the JSON itself.
        result_type: Prediction or McPrediction.

    Raises:
        KeyError, TypeError: a field that every answer has is missing, or of another kind.
    """
    known = {one.name for one in fields(result_type)} - {"extra", "raw"}
    values = {name: _frozen(value) for name, value in answer.items() if name in known}
    values["model"] = ModelIdentity(answer["model"]["name"], answer["model"]["version"])
    values["decision"] = _parse_decision(answer.get("decision"))
    extra = {name: value for name, value in answer.items() if name not in known}
    return result_type(**values, extra=extra, raw=text)


def split_batch(text: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Each element of `predictions`, parsed, and its own JSON as the server wrote it.

    The text is cut and not written anew: numbers would come out in another form.

    Raises:
        ValueError: this is no batch.
    """
    start = _PREDICTIONS.search(text)
    if start is None:
        raise ValueError("no predictions")
    decoder = json.JSONDecoder()
    position = start.end()
    while True:
        between = _BETWEEN.match(text, position)
        assert between is not None
        position = between.end()
        if text[position : position + 1] == "]":
            return
        element, end = decoder.raw_decode(text, position)
        if not isinstance(element, dict):
            raise ValueError("a prediction is an object")
        yield element, text[position:end]
        position = end


def _parse_decision(value: Any) -> Decision | None:
    if value is None:
        return None
    known = {one.name for one in fields(Decision)}
    return Decision(**{name: _frozen(part) for name, part in value.items() if name in known})


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that a frozen object is frozen inside too."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
