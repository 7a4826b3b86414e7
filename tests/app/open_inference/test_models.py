"""The two models that clients see, and the documents that describe them."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from app.open_inference.models import Datatype, Tensor, served_models
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.open_inference.inference_requests import DIGITS, MC_OUTPUTS, OUTPUTS, json_body


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("name", ["mnist", "mnist-mc"])
async def test_the_metadata_describes_what_infer_takes_and_gives(
    client: httpx.AsyncClient, name: str, version: str
) -> None:
    metadata = (await client.get(f"/v2/models/{name}{version}")).json()

    (pixels,) = metadata["inputs"]
    outputs = {output["name"]: output for output in metadata["outputs"]}
    assert (metadata["name"], metadata["versions"]) == (name, ["1"])
    assert pixels == {"name": "pixels", "datatype": "UINT8", "shape": [-1, 784]}
    assert list(outputs) == (MC_OUTPUTS if name == "mnist-mc" else OUTPUTS)

    body = json_body(DIGITS[:2])
    response = await client.post(f"/v2/models/{name}{version}/infer", content=body.content)
    for output in response.json()["outputs"]:
        promised = outputs[output["name"]]
        assert output["datatype"] == promised["datatype"]
        assert output["shape"] == [2, *promised["shape"][1:]]


async def test_the_config_says_how_large_a_batch_may_be(client: httpx.AsyncClient) -> None:
    for name in ("mnist", "mnist-mc"):
        config = (await client.get(f"/v2/models/{name}/config")).json()

        assert (config["name"], config["max_batch_size"]) == (name, 256)
        assert config["input"] == [{"name": "pixels", "data_type": "TYPE_UINT8", "dims": [784]}]
        metadata = (await client.get(f"/v2/models/{name}")).json()
        names = [output["name"] for output in metadata["outputs"]]
        assert [output["name"] for output in config["output"]] == names
        assert all(size > 0 for output in config["output"] for size in output["dims"])


def test_a_checkpoint_with_thresholds_has_a_decision(default_checkpoint: Checkpoint) -> None:
    thresholds = {"predict": None, "mc": 0.5}
    calibration = {**default_checkpoint.calibration, "thresholds": thresholds}
    checkpoint = dataclasses.replace(default_checkpoint, calibration=calibration)

    plain, sampled = served_models(checkpoint, Settings()).values()

    decision = sampled.outputs["decision"]
    assert "decision" not in plain.outputs
    assert (decision.datatype, decision.item_shape) == ("BYTES", ())
    answers: list[Any] = [
        SimpleNamespace(decision=SimpleNamespace(outcome=outcome))
        for outcome in ("accept", "abstain")
    ]
    undecided: Any = SimpleNamespace(decision=None)
    assert decision.values([*answers, undecided]) == ["accept", "abstain", "none"]


@pytest.mark.parametrize(
    ("datatype", "values", "dtype"),
    [("FP32", [0.5, 0.25], "<f4"), ("INT64", [7, 4], "<i8"), ("UINT8", [255, 0], "u1")],
)
def test_values_of_answers_are_little_endian_and_of_the_tensors_type(
    datatype: Datatype, values: list[Any], dtype: str
) -> None:
    answers: list[Any] = [SimpleNamespace(some=value) for value in values]
    found = Tensor("some", datatype).values(answers)

    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.tolist()) == (np.dtype(dtype), values)


def test_a_size_stands_in_the_config_also_where_an_item_has_none() -> None:
    assert Tensor("digit", "INT64").config()["dims"] == [1]
    assert Tensor("mean", "FP32", (10,)).config()["dims"] == [10]
    assert Tensor("mean", "FP32", (10,)).metadata()["shape"] == [-1, 10]
