"""The body of an inference response: JSON, and raw data where it was asked for."""

import json
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from app.open_inference.models import ServedModel, served_models
from app.open_inference.requests import RequestHeader, parse_request
from app.open_inference.responses import build_response
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.open_inference.inference_requests import (
    HEADER_LENGTH,
    SEVEN,
    infer,
    json_body,
    read_outputs,
)


@pytest.mark.parametrize("identity", ["a", "", "ümläut"])
async def test_an_id_is_repeated(client: httpx.AsyncClient, identity: str) -> None:
    body = json_body(SEVEN)
    body.document["id"] = identity

    assert (await infer(client, "mnist", body)).json()["id"] == identity


async def test_without_an_id_there_is_none(client: httpx.AsyncClient) -> None:
    document = (await infer(client, "mnist", json_body(SEVEN))).json()

    assert document.keys() == {"model_name", "model_version", "outputs"}
    assert (document["model_name"], document["model_version"]) == ("mnist", "1")


async def test_outputs_come_as_asked_for_and_in_that_order(client: httpx.AsyncClient) -> None:
    body = json_body(SEVEN, {"seed": 1, "binary_data_output": True})
    body.document["outputs"] = [
        {"name": "votes", "parameters": {"binary_data": False}},
        {"name": "mean"},
        {"name": "digit", "parameters": {"binary_data": True}},
    ]
    response = await infer(client, "mnist-mc", body)
    header = json.loads(response.content[: int(response.headers[HEADER_LENGTH])])

    assert [output["name"] for output in header["outputs"]] == ["votes", "mean", "digit"]
    assert ["data" in output for output in header["outputs"]] == [True, False, False]
    outputs = read_outputs(response)
    assert (outputs["votes"].sum(), outputs["digit"].tolist()) == (50, [7])


# The function alone


@pytest.fixture(scope="module")
def model(default_checkpoint: Checkpoint) -> ServedModel:
    return served_models(default_checkpoint, Settings())["mnist-mc"]


def asked_for(model: ServedModel, outputs: list[dict[str, Any]]) -> RequestHeader:
    body = json_body(SEVEN)
    body.document["outputs"] = outputs
    return parse_request(body.content, None, model).header


ANSWERS: list[Any] = [
    SimpleNamespace(digit=7, mean=[0.25, 0.75], decision=SimpleNamespace(outcome="accept")),
    SimpleNamespace(digit=4, mean=[0.5, 0.5], decision=SimpleNamespace(outcome="abstain")),
]


def test_without_raw_outputs_all_of_the_body_is_json(model: ServedModel) -> None:
    header = asked_for(model, [{"name": "decision"}, {"name": "digit"}])
    content, json_length = build_response(model, header, ANSWERS)

    assert json_length is None
    decision, digit = json.loads(content)["outputs"]
    assert (decision["datatype"], decision["data"]) == ("BYTES", ["accept", "abstain"])
    assert (digit["datatype"], digit["shape"], digit["data"]) == ("INT64", [2], [7, 4])


def test_raw_outputs_follow_the_json_in_order_little_endian(model: ServedModel) -> None:
    raw = {"binary_data": True}
    header = asked_for(
        model,
        [
            {"name": "mean", "parameters": raw},
            {"name": "digit"},
            {"name": "decision", "parameters": raw},
        ],
    )
    content, json_length = build_response(model, header, ANSWERS)

    assert json_length is not None
    mean, digit, decision = json.loads(content[:json_length])["outputs"]
    data = np.array([0.25, 0.75, 0.5, 0.5], "<f4").tobytes()
    texts = b"\x06\0\0\0accept\x07\0\0\0abstain"
    assert content[json_length:] == data + texts
    assert mean["parameters"] == {"binary_data_size": len(data)}
    assert "parameters" not in digit
    assert decision["parameters"] == {"binary_data_size": len(texts)}
