"""The body of an inference response: JSON, and raw data where it was asked for."""

import json

import httpx
import pytest

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
