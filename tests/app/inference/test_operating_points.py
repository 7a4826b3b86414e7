"""The caller's own operating point: `target_error`, and `until=decision`."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.api.application import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.sampling.settling import LOOKS
from tests.app.inference.test_answers import CALIBRATION
from tests.conftest import assert_error, connect, sample


def points(threshold: float) -> dict[str, Any]:
    return {
        "0.001": None,
        "0.002": {"threshold": threshold / 100, "coverage": 0.61},
        "0.05": {"threshold": threshold, "coverage": 0.99},
    }


ROWS = [
    {
        "passes": passes,
        "temperature": 1.0,
        "threshold": 0.35,
        "unfamiliar_threshold": None,
        "conformal": {},
        "target_errors": points(threshold),
    }
    for passes, threshold in ((10, 1.0), (20, 1.4))
]
FITTED = {
    **CALIBRATION,
    "by_passes": ROWS,
    "target_errors": {"predict": points(0.8), "mc": points(1.4)},
    "until_decision": {"share": 0.003, "scales": {"default": 1.0, "0.05": None}},
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def fitted(default_checkpoint: Checkpoint) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings(), replace(default_checkpoint, calibration=FITTED))
    async with app.router.lifespan_context(app), connect(app) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "threshold"),
    [("/predict", 0.8), ("/predict/mc?passes=10", 1.0), ("/predict/mc?passes=40&seed=1", 1.4)],
)
async def test_a_target_error_decides_by_its_threshold(
    fitted: httpx.AsyncClient, path: str, threshold: float
) -> None:
    for target, limit, coverage in (("0.05", threshold, 0.99), ("2e-3", threshold / 100, 0.61)):
        separator = "&" if "?" in path else "?"
        url = f"{path}{separator}target_error={target}"
        answer = (await fitted.post(url, content=sample("doubtful.png"))).json()
        decision = answer["decision"]
        assert (decision["threshold"], decision["coverage"]) == (pytest.approx(limit), coverage)
        accepts = answer["predictive_entropy"] <= decision["threshold"]
        assert (decision["outcome"] == "accept") is accepts
    plain = (await fitted.post(path, content=sample("doubtful.png"))).json()
    assert "coverage" not in plain["decision"]


@pytest.mark.parametrize("path", ["/predict", "/predict/mc", "/predict/mc/stream"])
@pytest.mark.parametrize("target", ["0.001", "0.01", "0", "2"])
async def test_a_level_that_is_not_in_the_table_is_refused_with_the_least_supported(
    fitted: httpx.AsyncClient, path: str, target: str
) -> None:
    response = await fitted.post(f"{path}?target_error={target}", content=sample("7.png"))
    error = assert_error(response, 422, "invalid_parameter")
    assert error["param"] == "target_error"
    assert error["message"] == (
        "target_error must be one of this checkpoint's levels: 0.002, 0.05; the least that its "
        "validation images support is 0.002"
    )


@pytest.mark.parametrize(("name", "value"), [("target_error", "0.01"), ("until", "decision")])
async def test_a_checkpoint_that_is_not_fitted_says_so(
    default_checkpoint: Checkpoint, name: str, value: str
) -> None:
    app = create_app(Settings(), replace(default_checkpoint, calibration=CALIBRATION))
    async with app.router.lifespan_context(app), connect(app) as client:
        response = await client.post(f"/predict/mc?{name}={value}", content=sample("7.png"))
        card = (await client.get("/model")).json()["calibration"]
    error = assert_error(response, 422, "invalid_parameter")
    assert error["param"] == name
    assert "must be left out: dropserve-train calibrate" in error["message"]
    absent = ("target_errors", "until_decision", "entropy_histogram")
    assert {key: card[key] for key in absent} == dict.fromkeys(absent)
    assert set(card["missing"]) == set(absent)
    assert "dropserve-train calibrate" in card["missing"]["until_decision"]


async def test_the_table_is_in_the_model_card(fitted: httpx.AsyncClient) -> None:
    card = (await fitted.get("/model")).json()["calibration"]
    assert card["target_errors"] == FITTED["target_errors"]
    assert set(card["missing"]) == {"entropy_histogram"}


async def test_a_decision_that_has_settled_ends_the_passes(fitted: httpx.AsyncClient) -> None:
    url = "/predict/mc?seed=1&passes=1000&until=decision"
    answer = (await fitted.post(url, content=sample("7.png"))).json()
    assert answer["stop_reason"] == "decision"
    assert answer["passes"] in LOOKS[:4]
    same = f"/predict/mc?seed=1&passes={answer['passes']}"
    plain = (await fitted.post(same, content=sample("7.png"))).json()
    assert {**answer, "stop_reason": "passes"} == plain


async def test_it_settles_the_same_in_a_stream_in_a_batch_and_under_load(
    fitted: httpx.AsyncClient,
) -> None:
    url = "seed=5&passes=300&until=decision"
    names = ("7.png", "doubtful.png", "3.png", "not_a_digit.png")
    singles = [
        (await fitted.post(f"/predict/mc?{url}", content=sample(name))).text for name in names
    ]
    files = [("file", sample(name)) for name in names]
    batch = await fitted.post(f"/predict/mc/batch?{url}", files=files)
    assert batch.text == '{"predictions":[' + ",".join(singles) + "]}"
    for name, single in zip(names, singles, strict=True):
        stream = await fitted.post(f"/predict/mc/stream?{url}", content=sample(name))
        assert stream.text.rpartition("data: ")[2].strip() == single


async def test_a_decision_that_never_settles_takes_all_passes(
    default_checkpoint: Checkpoint,
) -> None:
    scales = {"scales": {"default": 1e6}}
    calibration = {**FITTED, "until_decision": scales}
    app = create_app(Settings(), replace(default_checkpoint, calibration=calibration))
    async with app.router.lifespan_context(app), connect(app) as client:
        url = "/predict/mc?seed=1&passes=100"
        until = await client.post(f"{url}&until=decision", content=sample("7.png"))
        plain = await client.post(url, content=sample("7.png"))
    assert until.content == plain.content
    assert until.json()["stop_reason"] == "passes"


async def test_a_target_without_a_rule_cannot_settle(fitted: httpx.AsyncClient) -> None:
    url = "/predict/mc?until=decision&target_error=0.05"
    error = assert_error(await fitted.post(url, content=sample("7.png")), 422, "invalid_parameter")
    assert error["param"] == "until"
