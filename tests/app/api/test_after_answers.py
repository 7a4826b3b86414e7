"""What comes after an answer, for each of several models: feedback, accuracy, review; decisions."""

import io
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio

from app.api.application import create_app
from app.cli.review import review
from app.client import AsyncDropserveClient
from app.errors import UsageError
from app.settings import Settings
from app.telemetry.logs import AccessLog
from model.checkpoint import AnyCheckpoint, save_checkpoint
from model.literals import ENTROPY_BOUNDS
from model.sampling.settling import LOOKS
from tests.app.api.request_bodies import as_json
from tests.app.api.served_models import link_default
from tests.app.inference.test_operating_points import FITTED
from tests.app.telemetry.pipes import Pipe
from tests.app.telemetry.prometheus_text import Scrape
from tests.conftest import assert_error, connect, sample
from tests.model.layered_networks import convnet, tabular

SECRET = "a secret of the tests"
ROW: list[Any] = [number / 7 for number in range(12)]
PICTURE: list[Any] = np.arange(9 * 8 * 3).reshape(9, 8, 3).tolist()
SHARES = [0.5] * len(ENTROPY_BOUNDS)
HISTOGRAM = {"bounds": list(ENTROPY_BOUNDS), "predict": SHARES, "mc": SHARES}
# Accepts nothing by its own threshold, so that all is kept for review.
CALIBRATION = {
    **FITTED,
    "thresholds": {"predict": -1.0, "mc": -1.0},
    "by_passes": [{**row, "threshold": -1.0} for row in FITTED["by_passes"]],
    "until_decision": {"scales": {"default": 1e-6, "0.05": 1e-6}},
    "entropy_histogram": HISTOGRAM,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed network, and two others that are calibrated."""
    path = tmp_path_factory.mktemp("models")
    link_default(path)
    for name, network in (("iris", tabular()), ("tiles", convnet())):
        save_checkpoint(
            path / name / "1" / "model.safetensors",
            AnyCheckpoint(network, calibration=CALIBRATION, training={"name": name}),
        )
    return path


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a server that takes feedback."""
    app = create_app(Settings.model_validate({"feedback_secret": SECRET, **settings}))
    async with app.router.lifespan_context(app), connect(app) as connected:
        yield connected


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def asking(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(models=folder, default_model="mnist") as connected:
        yield connected


async def test_feedback_counts_for_the_model_that_answered(asking: httpx.AsyncClient) -> None:
    client = AsyncDropserveClient("http://x", model="iris", transport=asking._transport)
    async with client:
        answer = await client.predict({"input": ROW})
        wrong = (answer.index + 1) % 3
        assert await client.feedback(answer, label=wrong) is False
    right: Counter[str] = Counter()
    for path in ("/models/iris/predict", "/models/iris/versions/1/predict/mc"):
        response = await asking.post(path, **as_json(input=ROW))
        token, label = response.headers["x-feedback-token"], response.json()["label"]
        right[str(response.json()["class_index"])] += 1
        body = {"token": token, "label": "7"}
        error = assert_error(await asking.post("/feedback", json=body), 422, "invalid_parameter")
        assert "0 to 2" in error["message"]
        found = await asking.post("/feedback", json={"token": token, "label": label})
        assert found.json() == {"correct": True}
    short = await asking.post("/predict", content=sample("7.png"))
    token = short.headers["x-feedback-token"]
    assert (await asking.post("/feedback", json={"token": token, "label": 7})).json()["correct"]

    seen = Scrape.of(await asking.get("/metrics"))
    for labels, counts in (
        ({"model": "iris", "decision": "abstain", "correct": "true"}, right),
        ({"model": "iris", "decision": "abstain", "correct": "false"}, {str(wrong): 1}),
        ({"model": "mnist", "decision": "accept", "correct": "true"}, {"7": 1}),
    ):
        assert seen.by("class_index", "feedback_total", **labels) == counts


async def test_feedback_of_a_model_that_is_gone_is_refused(
    asking: httpx.AsyncClient, folder: Path
) -> None:
    response = await asking.post("/models/iris/predict", **as_json(input=ROW))
    body = {"token": response.headers["x-feedback-token"], "label": 0}
    async with serving(checkpoint=folder / "mnist" / "1" / "model.safetensors") as replica:
        assert_error(await replica.post("/feedback", json=body), 404, "not_found")


@pytest.mark.parametrize(("model", "given"), [("iris", ROW), ("tiles", PICTURE)])
async def test_operating_points_are_those_of_the_model(
    asking: httpx.AsyncClient, model: str, given: list[Any]
) -> None:
    url = f"/models/{model}/predict/mc"
    settled: dict[str, Any] = {"input": given, "seed": 5, "passes": 300, "until": "decision"}
    settled |= {"target_error": 0.05}
    answer = await asking.post(url, **as_json(**settled))
    found = answer.json()
    assert found["stop_reason"] == "decision"
    assert found["passes"] == LOOKS[0]
    assert found["decision"]["coverage"] == 0.99
    plain = await asking.post(
        url, **as_json(input=given, seed=5, passes=LOOKS[0], target_error=0.05)
    )
    assert plain.json() == {**found, "stop_reason": "passes"}
    stream = await asking.post(f"{url}/stream", **as_json(**settled))
    assert stream.text.rpartition("data: ")[2].strip() == answer.text

    refused = await asking.post(url, **as_json(input=given, target_error=0.001))
    assert "0.002, 0.05" in assert_error(refused, 422, "invalid_parameter")["message"]
    card = (await asking.get(f"/models/{model}")).json()
    assert card["calibration"]["target_errors"] == FITTED["target_errors"]


async def test_accuracy_without_labels_is_counted_for_each_model(
    folder: Path,
) -> None:
    async with serving(models=folder) as client:
        await client.post("/models/mnist/predict", content=sample("7.png"))
        point = "/models/iris/predict?target_error=0.05"
        answer = await client.post(point, **as_json(input=ROW))
        study = await client.post("/models/iris/predict/mc?dropout=0.5", **as_json(input=ROW))
        seen = Scrape.of(await client.get("/metrics"))

    assert study.json()["decision"] is None
    iris = {"model": "iris", "mode": "predict"}
    assert seen("predictive_entropy_nats_count", **iris) == 1
    assert seen("predictive_entropy_nats_sum", **iris) == pytest.approx(
        answer.json()["predictive_entropy"]
    )
    accepts = answer.json()["decision"]["outcome"] == "accept"
    assert seen("accepted_confidence_ratio_count", **iris) == accepts
    assert seen("predictive_entropy_nats_count", model="iris", mode="mc") == 0
    assert seen("model_predictions_total", model="iris", mode="mc") == 1
    assert seen("reference_entropy_ratio", **iris, bound="0.1") == 0.5
    assert seen("reference_entropy_ratio", **iris, bound="0.02") == 0


async def test_what_is_kept_for_review_is_labelled_model_by_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.inference.review._PER_SECOND", float("inf"))
    kept = tmp_path / "kept"
    async with serving(models=folder, review_dir=kept) as client:
        await client.post("/models/iris/predict", **as_json(input=ROW))
        await client.post("/models/tiles/predict", **as_json(input=PICTURE))
        await client.post("/models/mnist/predict", content=sample("not_a_digit.png"))
    for model, label, inputs in (
        ("iris", 2, np.array(ROW, np.float32)),
        ("tiles", 3, np.array(PICTURE, np.uint8)),
        ("mnist", 9, None),
    ):
        output, shown = tmp_path / f"{model}.npz", io.StringIO()
        assert review(kept, output, [f"{label}\n"] * 3, shown.write, model=model) == 1
        with np.load(output) as saved:
            assert saved["labels"].tolist() == [label]
            if inputs is not None:
                assert saved["inputs"].dtype == inputs.dtype
                assert (saved["inputs"] == inputs).all()
            else:
                assert saved["inputs"].shape[1:] == (28, 28)
        assert "other models: --model" in shown.getvalue()
        assert review(kept, output, [], len) == 1
        with pytest.raises(UsageError, match=f"labels of the model {model}"):
            review(kept, output, [], len, model="another")


async def test_a_line_of_the_log_has_the_model_and_the_trace(folder: Path) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    pipe = Pipe()
    app = create_app(Settings(models=folder), access_log=AccessLog(pipe.writer, "json"))
    async with app.router.lifespan_context(app), connect(app) as client:
        sent = as_json(input=ROW)
        sent["headers"]["traceparent"] = f"00-{trace}-b7ad6b7169203331-00"
        await client.post("/models/iris/predict", **sent)
    line = json.loads(pipe.read())
    assert (line["model"], line["trace_id"]) == ("iris", trace)
