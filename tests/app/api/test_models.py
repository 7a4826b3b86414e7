"""Several networks in one server: their routes, what they take and answer, V2, load and unload."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI

from app.errors import ErrorCode
from app.inference import repository
from app.settings import Settings
from model.checkpoint import load_any_checkpoint
from model.engines import build_engine
from model.engines.protocol import predict_probs, sample_probs
from model.sampling.masks import Passes
from tests.app.api.request_bodies import as_json, encode
from tests.app.api.served_models import (
    ADMIN,
    AS_ADMIN,
    link_default,
    save_network,
    serving_models,
    write_admin_key,
)
from tests.conftest import assert_error, connect, sample
from tests.model.layered_networks import tabular

ROW: Any = np.arange(12, dtype=np.float32) / 7


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed network, and a tabular one in two versions."""
    path = tmp_path_factory.mktemp("models")
    link_default(path)
    save_network(path, "iris", tabular(), 1)
    save_network(path, "iris", tabular(), 10, {"note": "newer"})
    return path


@pytest_asyncio.fixture(loop_scope="session")
async def several(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[FastAPI]:
    keys = write_admin_key(tmp_path_factory.mktemp("keys"))
    settings = Settings(models=folder, default_model="mnist", admin_keys_file=keys)
    async with serving_models(settings) as app:
        yield app


@pytest_asyncio.fixture(loop_scope="session")
async def asking(several: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(several) as connected:
        yield connected


async def test_the_models_are_listed_with_what_they_take(asking: httpx.AsyncClient) -> None:
    listed = (await asking.get("/models")).json()["models"]

    assert [(each["name"], each["default"]) for each in listed] == [
        ("mnist", True),
        ("iris", False),
    ]
    iris = listed[1]["versions"]
    assert [version["version"] for version in iris] == ["1", "10"]
    assert iris[0]["input"] == {"shape": [12], "dtype": "float32", "preparation": "none"}
    assert iris[0]["labels"] == ["class 0", "class 1", "class 2"]
    assert not iris[0]["calibrated"]


@pytest.mark.parametrize("prefix", ["/models/mnist", "/models/mnist/versions/1"])
async def test_the_long_routes_of_the_default_answer_as_the_short_ones(
    asking: httpx.AsyncClient, client: httpx.AsyncClient, prefix: str
) -> None:
    for path in ("/predict", "/predict/mc?seed=3", "/predict/mc/stream?seed=3"):
        short = await client.post(path, content=sample("7.png"))
        long = await asking.post(prefix + path, content=sample("7.png"))
        assert long.status_code == 200, long.text
        assert long.content == short.content
    assert (await asking.get(prefix)).json() == (await client.get("/model")).json()


async def test_the_newest_version_answers_where_none_is_named(
    asking: httpx.AsyncClient, folder: Path
) -> None:
    networks = [load_any_checkpoint(folder / f"iris/{v}/model.safetensors") for v in (1, 10)]
    first, newest = (network.version for network in networks)
    request = as_json(input=ROW.tolist())
    for path, version in (
        ("/models/iris", newest),
        ("/models/iris/versions/10", newest),
        ("/models/iris/versions/1", first),
        (f"/models/iris/versions/{first}", first),
    ):
        answer = (await asking.post(f"{path}/predict", **request)).json()
        assert answer["model"] == {"name": "iris", "version": version}


async def test_numbers_are_answered_as_the_engine_computes_them(
    asking: httpx.AsyncClient,
) -> None:
    engine = build_engine(tabular())
    request = as_json(input=ROW.tolist(), seed=5)

    plain = (await asking.post("/models/iris/predict", **as_json(input=ROW.tolist()))).json()
    sampled = (await asking.post("/models/iris/predict/mc", **request)).json()

    probs = predict_probs(engine, ROW)
    mean = sample_probs(engine, ROW, Passes(50, 5)).astype(float).mean(axis=0)
    np.testing.assert_allclose(plain["probabilities"], probs, atol=1e-6)
    np.testing.assert_allclose(sampled["mean"], mean, atol=1e-6)
    for answer, expected in ((plain, probs), (sampled, mean)):
        index = int(np.argmax(expected))
        assert "digit" not in answer
        assert (answer["class_index"], answer["label"]) == (index, f"class {index}")
        assert answer["decision"] is None
        assert "dropserve-train calibrate" in answer["no_decision"]


async def test_a_batch_of_numbers_has_an_answer_or_an_error_for_each(
    asking: httpx.AsyncClient,
) -> None:
    items: list[Any] = [{"input": ROW.tolist()}, {"input": [1, 2]}, {"input": ROW.tolist()}]
    for path in ("batch", "mc/batch?seed=5"):
        response = await asking.post(f"/models/iris/predict/{path}", **as_json(inputs=items))

        first, wrong, last = response.json()["predictions"]
        assert first == last
        assert wrong["error"]["code"] == "invalid_pixels"
        assert "12 finite numbers" in wrong["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (as_json(input=[[1.0] * 12]), 422, "invalid_pixels"),
        (as_json(input=[1.0] * 13), 422, "invalid_pixels"),
        (as_json(input=[True] * 12), 422, "invalid_pixels"),
        (as_json(input=["1"] * 12), 422, "invalid_pixels"),
        (as_json(input=[1e300] * 12), 422, "invalid_pixels"),
        (as_json(input=[10**400] * 12), 422, "invalid_pixels"),
        (as_json(input=7), 422, "invalid_pixels"),
        (as_json(passes=7), 422, "invalid_parameter"),
        ({"content": sample("7.png")}, 415, "unsupported_media_type"),
    ],
)
async def test_what_is_no_input_of_the_network_is_refused(
    asking: httpx.AsyncClient, body: dict[str, Any], status: int, code: str
) -> None:
    response = await asking.post("/models/iris/predict/mc", **body)

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "path",
    ["/models/none", "/models/iris/versions/2", "/models/mnist-mc", "/models/iris/versions/x"],
)
async def test_what_is_not_served_is_not_found(asking: httpx.AsyncClient, path: str) -> None:
    error = assert_error(
        await asking.post(f"{path}/predict", **as_json(input=[0.0])), 404, "not_found"
    )
    assert "are" in error["message"]
    assert (await asking.get(path)).status_code == 404


# V2


def infer_body(*rows: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = np.stack(rows).ravel().tolist()
    tensor = {"name": "input", "datatype": "FP32", "shape": [len(rows), 12], "data": data}
    return {"content": json.dumps({"inputs": [tensor], "parameters": {}})}


async def test_v2_describes_each_network_twice(asking: httpx.AsyncClient) -> None:
    described = (await asking.get("/v2/models/iris-mc")).json()
    assert described["versions"] == ["1", "10"]
    assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 12]}]
    outputs = {each["name"]: each["shape"] for each in described["outputs"]}
    assert outputs["mean"] == [-1, 3]
    assert outputs["class_index"] == [-1]
    assert "digit" not in outputs

    index = (await asking.post("/v2/repository/index")).json()
    assert {(each["name"], each["version"]) for each in index} == {
        (name + suffix, version)
        for name, version in (("mnist", "1"), ("iris", "1"), ("iris", "10"))
        for suffix in ("", "-mc")
    }


async def test_v2_tensors_have_the_shape_and_type_of_the_network(
    asking: httpx.AsyncClient,
) -> None:
    engine, rows = build_engine(tabular()), np.stack([ROW, -ROW])
    response = await asking.post("/v2/models/iris/infer", **infer_body(*rows))

    answer = response.json()
    assert (answer["model_name"], answer["model_version"]) == ("iris", "10")
    found = {each["name"]: each["data"] for each in answer["outputs"]}
    expected = np.stack([predict_probs(engine, row) for row in rows])
    np.testing.assert_allclose(found["probabilities"], expected.ravel(), atol=1e-6)
    raw = await asking.post(
        "/v2/models/iris/infer",
        content=rows.tobytes(),
        headers={"inference-header-content-length": "0"},
    )
    assert raw.status_code == 200, raw.text

    for change in ({"datatype": "UINT8"}, {"shape": [2, 6]}, {"name": "pixels"}):
        document = json.loads(infer_body(*rows)["content"])
        document["inputs"][0] |= change
        refused = await asking.post("/v2/models/iris/infer", content=json.dumps(document))
        assert refused.status_code == 400, change


# Load and unload


async def change(client: httpx.AsyncClient, verb: str, name: str) -> httpx.Response:
    return await client.post(f"/v2/repository/models/{name}/{verb}", headers=AS_ADMIN)


async def test_an_unloaded_model_is_nowhere_until_it_is_loaded_again(
    asking: httpx.AsyncClient, folder: Path
) -> None:
    save_network(folder, "other", tabular())
    assert (await change(asking, "load", "other")).status_code == 200
    assert (await asking.get("/v2/models/other/ready")).status_code == 200

    assert (await change(asking, "unload", "other")).status_code == 200

    for path in ("/v2/models/other/ready", "/v2/models/other-mc", "/models/other"):
        assert (await asking.get(path)).status_code == 404
    index = (await asking.post("/v2/repository/index")).json()
    states = {each["name"]: (each["state"], each["reason"]) for each in index}
    assert states["other"] == states["other-mc"] == ("UNAVAILABLE", "unloaded")
    ready = (await asking.post("/v2/repository/index", content=b'{"ready": true}')).json()
    assert {each["state"] for each in ready} == {"READY"}
    # At once, whatever became of the unload before.
    for _ in range(3):
        assert (await change(asking, "load", "other")).status_code == 200
        assert (await asking.get("/v2/models/other/ready")).status_code == 200
        assert (await change(asking, "unload", "other")).status_code == 200


async def test_after_a_load_that_failed_the_next_one_succeeds(
    asking: httpx.AsyncClient, folder: Path
) -> None:
    path = save_network(folder, "damaged", tabular())
    content = path.read_bytes()
    path.write_bytes(content[:100])
    for _ in range(2):
        refused = await change(asking, "load", "damaged")
        assert refused.status_code == 400
        assert "damaged" in refused.json()["error"]
    path.write_bytes(content)

    assert (await change(asking, "load", "damaged")).status_code == 200
    assert (await asking.get("/models/damaged")).status_code == 200
    assert (await change(asking, "unload", "damaged")).status_code == 200


async def test_a_model_whose_new_file_is_damaged_serves_on(
    asking: httpx.AsyncClient, folder: Path
) -> None:
    path = save_network(folder, "kept", tabular())
    assert (await change(asking, "load", "kept")).status_code == 200
    path.write_bytes(b"no network")
    assert (await change(asking, "load", "kept")).status_code == 400

    request = as_json(input=ROW.tolist())
    assert (await asking.post("/models/kept/predict", **request)).status_code == 200


async def test_the_old_network_answers_until_the_new_one_is_up(
    asking: httpx.AsyncClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow Serving and others drop the old version first."""
    save_network(folder, "slow", tabular())
    assert (await change(asking, "load", "slow")).status_code == 200
    request = as_json(input=ROW.tolist())

    async def version() -> str:
        response = await asking.post("/models/slow/predict", **request)
        assert response.status_code == 200, response.text
        return str(response.json()["model"]["version"])

    before, load = await version(), repository.load_predictor
    save_network(folder, "slow", tabular(), 1, {"note": "new"})
    is_loaded, may_serve = threading.Event(), threading.Event()

    def load_slowly(*arguments: Any) -> Any:
        predictor = load(*arguments)
        is_loaded.set()
        assert may_serve.wait(60)
        return predictor

    monkeypatch.setattr(repository, "load_predictor", load_slowly)
    loading = asyncio.create_task(change(asking, "load", "slow"))
    try:
        assert await asyncio.to_thread(is_loaded.wait, 60)
        assert await version() == before
        assert (await asking.get("/v2/models/slow/ready")).status_code == 200
        assert not loading.done()
    finally:
        may_serve.set()
    assert (await loading).status_code == 200
    assert await version() != before


async def test_no_request_is_lost_while_models_are_loaded_and_unloaded(
    asking: httpx.AsyncClient, folder: Path
) -> None:
    save_network(folder, "moving", tabular())
    statuses: list[int] = []
    is_over = False

    async def ask() -> None:
        request = as_json(input=ROW.tolist(), passes=200)
        while not is_over:
            statuses.append((await asking.post("/models/iris/predict/mc", **request)).status_code)

    asked = [asyncio.create_task(ask()) for _ in range(2)]
    for _ in range(5):
        for verb, name in (("load", "moving"), ("load", "iris"), ("unload", "moving")):
            assert (await change(asking, verb, name)).status_code == 200
    is_over = True
    await asyncio.gather(*asked)

    assert set(statuses) == {200}


@pytest.mark.parametrize(
    ("verb", "name", "says"),
    [
        ("unload", "mnist", "default"),
        ("unload", "none", "not loaded"),
        ("load", "none", "no such model"),
        ("load", "iris-mc", "without -mc"),
    ],
)
async def test_what_cannot_be_loaded_or_unloaded_is_refused(
    asking: httpx.AsyncClient, verb: str, name: str, says: str
) -> None:
    refused = await change(asking, verb, name)

    assert refused.status_code == 400
    assert says in refused.json()["error"]


async def test_loading_takes_an_admin_key_and_no_other(
    asking: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    path = "/v2/repository/models/iris/load"
    assert (await asking.post(path)).status_code == 401
    wrong = {"authorization": f"Bearer {ADMIN[:-1]}y"}
    assert (await asking.post(path, headers=wrong)).status_code == 401
    # It guards nothing else.
    assert (await asking.post("/v2/repository/models/iris/nowhere")).status_code == 404
    # Without a file of admin keys nobody can.
    assert (await client.post(path, headers=AS_ADMIN)).status_code == 401


async def test_a_model_that_does_not_fit_in_memory_is_refused_before_it_is_read(
    asking: httpx.AsyncClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_network(folder, "large", tabular())
    path.write_bytes(b"of which nothing is read")
    monkeypatch.setattr("app.inference.memory.memory_left", lambda *_: 10)

    refused = await change(asking, "load", "large")

    assert refused.status_code == 400
    assert "would take" in refused.json()["error"]


async def test_a_rescan_serves_what_is_new_and_leaves_unloaded_what_was_unloaded(
    tmp_path: Path,
) -> None:
    link_default(tmp_path)
    for name in ("a", "b"):
        save_network(tmp_path, name, tabular())
    settings = Settings(models=tmp_path, default_model="mnist", max_timeout_ms=1)
    async with serving_models(settings) as app:
        models = app.state.models
        await models.unload_model("a")
        save_network(tmp_path, "c", tabular())
        save_network(tmp_path, "b", tabular(), 2)

        await models.reload()

        assert {name: list(versions) for name, versions in models.models.items()} == {
            "mnist": ["1"],
            "b": ["1", "2"],
            "c": ["1"],
        }
        assert models.catalogue.unloaded == {"a": "unloaded"}


# One budget, metrics


async def test_all_models_share_one_budget(several: FastAPI, asking: httpx.AsyncClient) -> None:
    mnist, iris = (several.state.models.find(name) for name in ("mnist", "iris"))
    assert mnist.scheduler is iris.scheduler
    with mnist.scheduler.admit(100):
        assert iris.scheduler.queued == 100
        # As if the fast network's requests were too much for the server.
        backlog = mnist.scheduler.backlog
        backlog.change(0, 10**9)
        try:
            request = as_json(input=ROW.tolist())
            refused = await asking.post("/models/iris/predict/mc", **request)
        finally:
            backlog.change(0, -(10**9))
    assert_error(refused, 429, ErrorCode.OVERLOADED.text)


async def test_metrics_name_the_model(asking: httpx.AsyncClient) -> None:
    async def counts() -> dict[str, float]:
        lines = (await asking.get("/metrics")).text.splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in lines[:]
            if line[0] != "#"
        }

    request = as_json(input=ROW.tolist(), passes=30)
    name = 'dropserve_model_predictions_total{model="iris",mode="mc"}'
    passes = 'dropserve_model_passes_total{model="iris"}'
    before = await counts()
    assert (await asking.post("/models/iris/predict/mc", **request)).status_code == 200
    after = await counts()

    assert (after[name] - before[name], after[passes] - before[passes]) == (1, 30)
    assert 'dropserve_model_workers{model="iris",version=' in " ".join(after)


async def test_a_picture_is_scaled_to_what_the_network_takes(tmp_path: Path) -> None:
    from model.layered import InputSpec
    from model.layers import DropoutLayer, FlattenLayer, LinearLayer
    from tests.model.layered_networks import draw_network

    spec = InputSpec((4, 6, 3), "uint8", 1 / 255, channels="last")
    layers = FlattenLayer(), LinearLayer(5), DropoutLayer(0.5), LinearLayer(2)
    save_network(tmp_path, "colours", draw_network(spec, *layers, classes=2))
    pytest.importorskip("torch")
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[:4, :, 0], picture[4:, :, 2] = 255, 128
    async with serving_models(Settings(models=tmp_path)) as app, connect(app) as client:
        whole = await client.post("/predict?return_input=true", content=encode(picture))
        exact = await client.post("/predict?preprocess=none", content=encode(picture[::2, ::2]))
        numbers = await client.post("/predict", **as_json(input=picture[::2, ::2].tolist()))
        refused = await client.post("/predict?preprocess=none", content=encode(picture))

    assert whole.json()["input"] == picture[::2, ::2].tolist()
    assert whole.json()["probabilities"] == exact.json()["probabilities"]
    assert exact.content == numbers.content
    assert_error(refused, 422, "invalid_pixels")
