"""Another dropout rate than the checkpoint's: the parameter, and the answers that it changes."""

import base64
import json
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.application import create_app
from app.settings import Settings
from model.arrays import Array
from model.checkpoint import Checkpoint
from model.network import MLP, MLPConfig
from tests.app.api.request_bodies import FORM, batch_as_json, form_bytes
from tests.conftest import connect, sample


async def ask(client: httpx.AsyncClient, query: str, name: str = "doubtful.png") -> dict[str, Any]:
    response = await client.post(f"/predict/mc?{query}", content=sample(name))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize(
    ("rate", "multiple"),
    [("0", 0), ("0.001", 0), ("0.002", 1), ("0.3", 77), ("0.5", 128), ("0.9", 230), ("9e-1", 230)],
)
async def test_the_answer_has_the_rate_as_it_was_rounded(
    client: httpx.AsyncClient, rate: str, multiple: int
) -> None:
    assert (await ask(client, f"dropout={rate}"))["dropout"] == multiple / 256


async def test_rates_that_round_to_the_same_multiple_have_the_same_bytes(
    client: httpx.AsyncClient,
) -> None:
    queries = [f"/predict/mc?seed=4&dropout={rate}" for rate in (0.3, 0.3001, 77 / 256, 0.302)]
    bodies = {(await client.post(query, content=sample("7.png"))).content for query in queries}
    other = await client.post("/predict/mc?seed=4&dropout=0.303", content=sample("7.png"))

    assert len(bodies) == 1
    assert other.content not in bodies


@pytest.mark.parametrize("estimator", ["independent", "balanced"])
async def test_the_checkpoints_own_rate_gives_the_same_passes(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint, estimator: str
) -> None:
    (rate,) = set(default_checkpoint.network.config.dropout_rates)
    query = f"seed=2&return_passes=true&estimator={estimator}"

    plain = await ask(client, query)
    explicit = await ask(client, f"{query}&dropout={rate}")

    assert explicit.keys() - plain.keys() == {"dropout"}
    changed = {name for name, value in plain.items() if explicit[name] != value}
    assert changed == {"confidence", "probabilities", "decision"}


async def test_nothing_is_calibrated_or_decided(client: httpx.AsyncClient) -> None:
    for name in ("7.png", "doubtful.png", "not_a_digit.png"):
        answer = await ask(client, "dropout=0.6&seed=1", name)

        assert answer["decision"] is None
        assert answer["probabilities"] == answer["mean"]
        assert answer["confidence"] == max(answer["mean"])
        assert answer["digit"] == answer["mean"].index(answer["confidence"])


@pytest.mark.parametrize("estimator", ["independent", "balanced"])
async def test_without_dropout_all_passes_are_equal(
    client: httpx.AsyncClient, estimator: str
) -> None:
    query = f"dropout=0&passes=70&return_passes=true&estimator={estimator}"

    answer = await ask(client, query)

    assert answer["dropout"] == 0
    assert answer["variance"] == answer["standard_error"] == [0] * 10
    assert sorted(answer["votes"]) == [0] * 9 + [70]
    assert answer["mutual_information"] == pytest.approx(0, abs=1e-12)
    assert answer["pass_probabilities"] == [answer["mean"]] * 70
    assert not any(any(base64.b64decode(bits)) for bits in answer["dropped"])
    off = (await client.post("/predict", content=sample("doubtful.png"))).json()
    assert answer["predictive_entropy"] == pytest.approx(off["predictive_entropy"], rel=1e-5)


async def test_an_answer_without_the_parameter_has_no_such_field(client: httpx.AsyncClient) -> None:
    assert "dropout" not in await ask(client, "seed=1")


async def test_query_form_and_json_are_equal(client: httpx.AsyncClient) -> None:
    image = sample("7.png")
    encoded = {"image": base64.b64encode(image).decode()}
    in_query = await client.post("/predict/mc?seed=1&dropout=0.7", content=image)
    in_json = await client.post("/predict/mc", json={**encoded, "seed": 1, "dropout": 0.7})
    in_form = await client.post(
        "/predict/mc",
        content=form_bytes([image], seed=1, dropout=0.7),
        headers={"content-type": FORM},
    )

    assert in_query.status_code == 200
    assert in_query.content == in_json.content == in_form.content
    whole = await client.post("/predict/mc", json={**encoded, "seed": 1, "dropout": 0})
    assert whole.json()["dropout"] == 0
    absent = await client.post("/predict/mc", json={**encoded, "seed": 1, "dropout": None})
    assert "dropout" not in absent.json()


async def test_a_batch_has_its_single_answers(client: httpx.AsyncClient) -> None:
    names, query = ["7.png", "doubtful.png"], "seed=1&dropout=0.8"

    batch = await client.post(
        f"/predict/mc/batch?{query}", **batch_as_json([sample(name) for name in names])
    )

    assert batch.json() == {"predictions": [await ask(client, query, name) for name in names]}


async def test_a_partial_result_has_the_rate_too(client: httpx.AsyncClient) -> None:
    stream = await client.post(
        "/predict/mc/stream?seed=1&passes=500&dropout=0.8", content=sample("doubtful.png")
    )

    events = [line[6:] for line in stream.text.splitlines() if line.startswith("data: ")]
    answers = [json.loads(event) for event in events]
    assert len(answers) > 2
    assert {(one["dropout"], one["decision"]) for one in answers} == {(205 / 256, None)}


async def test_a_higher_rate_needs_more_passes_for_the_same_standard_error(
    client: httpx.AsyncClient,
) -> None:
    query = "seed=1&passes=1000&max_standard_error=0.03"
    low, high = [await ask(client, f"{query}&dropout={rate}") for rate in (0.1, 0.5)]

    assert 32 <= low["passes"] < high["passes"] < 1000
    assert max(high["standard_error"]) <= 0.03


def textbook_probs(network: MLP, pixels: Array, keep: Array, rate: float) -> Array:
    """The passes of a ReLU network in float64, (T, C).

    Args:
        network: the network.
        pixels: ink 0 to 255.
        keep: masks of all hidden units, (T, units); 1 keeps a unit.
        rate: of every hidden layer.
    """
    config = network.config
    masks = np.split(keep, np.cumsum(config.hidden_sizes)[:-1], axis=1)
    h = (pixels.reshape(1, -1) / 255 - config.mean) / config.std
    for index, (weight, bias) in enumerate(network.layers):
        if index > 0:
            h = np.maximum(h, 0) * masks[index - 1] / (1 - rate)
        h = h @ weight.T.astype(np.float64) + bias
    powers = np.exp(h - h.max(axis=1, keepdims=True))
    probs: Array = powers / powers.sum(axis=1, keepdims=True)
    return probs


def dropped_units(answer: dict[str, Any]) -> Array:
    """1 for each unit that was dropped, (T, units); their number is a multiple of 8."""
    rows = [np.frombuffer(base64.b64decode(row), np.uint8) for row in answer["dropped"]]
    return np.unpackbits(rows, axis=1).astype(np.float64)


@pytest.mark.parametrize("estimator", ["independent", "balanced"])
@pytest.mark.parametrize("rate", [13 / 256, 128 / 256, 230 / 256])
async def test_passes_are_those_of_the_network_with_the_dropped_units_and_this_rate(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint, rate: float, estimator: str
) -> None:
    network = default_checkpoint.network
    query = f"seed=5&return_passes=true&return_input=true&dropout={rate}&estimator={estimator}"

    answer = await ask(client, query)

    dropped = dropped_units(answer)
    share, units = dropped.mean(), dropped.size
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / units)
    pixels = np.array(answer["input"], np.float64)
    expected = textbook_probs(network, pixels, 1 - dropped, rate)
    np.testing.assert_allclose(answer["pass_probabilities"], expected, atol=1e-4)
    np.testing.assert_allclose(answer["mean"], expected.mean(axis=0), atol=1e-5)


async def test_dropout_of_the_inputs_stays_as_it_is(default_checkpoint: Checkpoint) -> None:
    network = default_checkpoint.network
    config: MLPConfig = replace(network.config, input_dropout_rate=51 / 256)
    checkpoint = replace(default_checkpoint, network=MLP(config, network.layers))
    app = create_app(Settings(), checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        answer = await ask(client, "seed=1&dropout=0&return_passes=true")

    assert answer["dropout"] == 0
    assert max(answer["variance"]) > 0
    inputs, hidden = np.split(dropped_units(answer), [784], axis=1)
    assert inputs.mean() == pytest.approx(51 / 256, abs=0.02)
    assert not hidden.any()
