"""Answers and events, as the server writes them."""

import json
import pickle
from typing import Any

import httpx
import pytest

from app.client import (
    AsyncDropserveClient,
    ConnectionFailedError,
    Decision,
    DropserveClient,
    DropserveError,
    McPrediction,
    Prediction,
)
from app.client.responses import parse_answer, split_batch
from tests.app.client.conftest import ANSWER, MC_ANSWER, PICTURE


@pytest.mark.parametrize("route", ["/predict", "/predict/mc"])
async def test_an_answer_has_every_field_as_the_server_sent_it(
    asking: AsyncDropserveClient, client: httpx.AsyncClient, route: str
) -> None:
    mirrored: Prediction
    if route == "/predict":
        query = "return_input=true&return_steps=true"
        mirrored = await asking.predict(PICTURE, return_input=True, return_steps=True)
    else:
        query = "return_input=true&return_passes=true&seed=3&passes=4"
        mirrored = await asking.predict_mc(
            PICTURE, return_input=True, return_passes=True, seed=3, passes=4
        )
    response = await client.post(f"{route}?{query}", content=PICTURE)

    assert mirrored.raw == response.text
    assert mirrored.extra == {}
    for name, value in response.json().items():
        assert as_json(getattr(mirrored, name)) == value, name


def as_json(value: Any) -> Any:
    plain = value if isinstance(value, dict | int | float | str | tuple | None) else vars(value)
    return json.loads(json.dumps(plain))


def test_fields_of_a_newer_server_are_kept() -> None:
    decision = {
        "outcome": "abstain",
        "reason": "several_digits",
        "score": 0.7,
        "threshold": 0.4,
        "boxes": [[0, 1, 9, 20], [11, 1, 20, 20]],
        "mood": "sad",
    }
    answer = {**ANSWER, "decision": decision, "weather": ["rain"], "prediction_set": [4, 9]}

    parsed = parse_answer(answer, "the text", Prediction)

    assert parsed.extra == {"weather": ["rain"]}
    boxes = ((0, 1, 9, 20), (11, 1, 20, 20))
    assert parsed.decision == Decision(
        outcome="abstain", reason="several_digits", score=0.7, threshold=0.4, boxes=boxes
    )
    assert parsed.decision.abstains
    assert parsed.prediction_set == (4, 9)
    assert parsed.raw == "the text"


def test_answers_are_frozen_inside_too() -> None:
    parsed = parse_answer({**ANSWER, "input": [[0, 255]]}, "", Prediction)

    with pytest.raises(AttributeError):
        parsed.digit = 3  # type: ignore[misc]
    assert parsed.probabilities == (0.5, 0.5)
    assert parsed.input == ((0, 255),)


def test_an_answer_is_pickled_whole() -> None:
    parsed = parse_answer({**MC_ANSWER, "weather": ["rain"]}, "the text", McPrediction)

    copy = pickle.loads(pickle.dumps(parsed))

    assert copy == parsed
    assert (copy.raw, copy.extra) == ("the text", {"weather": ["rain"]})


def test_a_batch_is_cut_where_its_elements_end() -> None:
    parts = ['{"a": [1e-7, {"b": "]},"}]}', '{"c":2.679777e-5}', "{}"]
    text = '{"x":[0], "predictions" : [' + " ,\n".join(parts) + ' ],"y":1}'

    assert [part for _, part in split_batch(text)] == parts
    assert list(split_batch('{"predictions":[]}')) == []
    for broken in ("{}", '{"predictions":[1]}', '{"predictions":[{}', '{"predictions":['):
        with pytest.raises(ValueError, match=r"predictions|prediction is|Expecting"):
            list(split_batch(broken))


def event(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()


def stream_of(*parts: bytes) -> DropserveClient:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=iter(parts)))
    return DropserveClient(transport=transport)


def test_events_are_found_however_they_are_cut() -> None:
    estimate = event("estimate", {**MC_ANSWER, "stop_reason": None})
    whole = b": a comment\n\n" + estimate + event("later", {}) + event("result", MC_ANSWER)
    bytewise = [whole[index : index + 1] for index in range(len(whole))]

    for parts in ([whole], bytewise):
        answers = list(stream_of(*parts).predict_mc_stream(PICTURE))
        assert [one.is_final for one in answers] == [False, True]


def test_an_error_in_a_stream_is_raised() -> None:
    error = {"code": "deadline_exceeded", "message": "late", "param": None, "request_id": "r"}
    stream = stream_of(event("estimate", MC_ANSWER), event("error", {"error": error}))

    answers = stream.predict_mc_stream(PICTURE)
    next(answers)
    with pytest.raises(DropserveError, match="late") as caught:
        next(answers)

    assert (caught.value.code, caught.value.request_id) == ("deadline_exceeded", "r")


def test_a_stream_without_its_result_has_failed() -> None:
    answers = stream_of(event("estimate", MC_ANSWER)).predict_mc_stream(PICTURE)
    next(answers)

    with pytest.raises(ConnectionFailedError, match="before its result"):
        next(answers)
