"""Four networks in one server, each asked in every way: they agree with the engine."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from app.api.examples import example_pixels
from app.client import DropserveClient
from model.checkpoint import Network, load_any_checkpoint
from model.engines import build_engine
from model.engines.protocol import predict_probs, sample_probs
from model.files import DEFAULT_CHECKPOINT
from model.layered import InputSpec
from model.layers import Conv2dLayer, DropoutLayer, FlattenLayer, LinearLayer, MaxPool2dLayer
from model.sampling.masks import Passes
from model.uncertainty.statistics import entropy
from tests.app.api.served_models import save_network
from tests.app.cli.conftest import run
from tests.conftest import ROOT, RunningServer, ServerStarter
from tests.model.layered_networks import draw_network, tabular

pytestmark = pytest.mark.slow
pytest.importorskip("torch")

SEED = 5
NAMES = ("mnist", "mnist-plain", "tabular", "pictures")


def pictures() -> Network:
    """A ConvNet of 64 classes for pictures of 32x32 pixels in colour."""
    spec = InputSpec((32, 32, 3), "uint8", 1 / 255, (0.5,), (0.25,), channels="last")
    layers = (
        *(Conv2dLayer(16, (5, 5), (2, 2)), MaxPool2dLayer((2, 2), (2, 2)), FlattenLayer()),
        *(DropoutLayer(0.25), LinearLayer(64), DropoutLayer(0.5), LinearLayer(64)),
    )
    return draw_network(spec, *layers, classes=64)


class Served(NamedTuple):
    """A server, and where its models are."""

    server: RunningServer
    folder: Path
    work: Path

    def network(self, name: str) -> Network:
        return load_any_checkpoint(self.folder / name / "1/model.safetensors").network

    @property
    def address(self) -> str:
        return self.server.address


@pytest.fixture(scope="module")
def served(servers: ServerStarter, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES[:2]:
        path = folder / name / "1" / "model.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(DEFAULT_CHECKPOINT.with_name(f"{name}.safetensors").read_bytes())
    save_network(folder, "tabular", tabular())
    save_network(folder, "pictures", pictures())
    server = servers.start("--models", str(folder), "--default-model", "mnist")
    return Served(server, folder, tmp_path_factory.mktemp("work"))


@cache
def given(name: str) -> Any:
    """One input: pixels of a digit, twelve numbers, or a picture."""
    generator = np.random.default_rng(0)
    if name == "tabular":
        return generator.normal(size=12).astype(np.float32)
    if name == "pictures":
        return generator.integers(0, 256, (32, 32, 3), np.uint8)
    return example_pixels()


def as_item(name: str) -> dict[str, Any]:
    return {"input" if name in NAMES[2:] else "pixels": given(name).tolist()}


def post(served: Served, name: str, path: str, body: Mapping[str, Any]) -> httpx.Response:
    address = f"{served.address}/models/{name}{path}"
    response = httpx.post(address, json=body, trust_env=False, timeout=60)
    assert response.status_code == 200, response.text
    return response


# Each way: an answer, or an answer's columns or tensors, without dropout and with it.
Found = dict[str, Mapping[str, Any]]


def by_routes(served: Served, name: str) -> Found:
    plain = post(served, name, "/predict", as_item(name)).json()
    sampled = post(served, name, "/predict/mc", as_item(name) | {"seed": SEED})
    for path, one in (("/predict", plain), ("/predict/mc", sampled.json())):
        body = {"inputs": [as_item(name)] * 2} | ({"seed": SEED} if "mc" in path else {})
        batch = post(served, name, f"{path}/batch", body).json()
        assert batch == {"predictions": [one, one]}
    stream = post(served, name, "/predict/mc/stream", as_item(name) | {"seed": SEED}).content
    assert stream.endswith(b"event: result\ndata: " + sampled.content + b"\n\n")
    card = httpx.get(f"{served.address}/models/{name}", trust_env=False).json()
    assert card["version"] == plain["model"]["version"]
    return {"predict": plain, "mc": sampled.json()}


def by_client(served: Served, name: str) -> Found:
    values = given(name)
    image: Any = {"input": values} if name in NAMES[2:] else values
    with DropserveClient(served.address, model=name) as client:
        plain, sampled = client.predict(image), client.predict_mc(image, seed=SEED)
        (one,) = client.predict_mc_batch([image], seed=SEED)
        *_, last = client.predict_mc_stream(image, seed=SEED)
    assert one.raw == last.raw == sampled.raw  # type: ignore[union-attr]
    return {"predict": json.loads(plain.raw), "mc": json.loads(sampled.raw)}


def as_file(served: Served, name: str) -> Path:
    """What `predict` reads: numbers, or a picture."""
    path = served.work / f"{name}.{'npy' if name == 'tabular' else 'png'}"
    if name == "tabular":
        np.save(path, given(name))
    else:
        Image.fromarray(given(name)).save(path)
    return path


def by_predict(served: Served, name: str) -> Found:
    file, found = str(as_file(served, name)), served.work / f"{name}.json"
    options = ("--url", served.address, "--model", name, "--seed", str(SEED), "--output")
    assert run("predict", file, *options, str(found)) == 0
    return {"mc": json.loads(found.read_text())}


def by_score(served: Served, name: str) -> Found:
    """From an array, and from a column of lists; pictures from a file, too."""
    values, table = given(name), served.work / f"{name}.parquet"
    np.save(served.work / f"{name}-rows.npy", values[None])
    column = pa.array([values.tolist()])
    pq.write_table(pa.table({"id": [0], "rows": column}), served.work / f"{name}-rows.parquet")
    files = [served.work / f"{name}-rows.{ending}" for ending in ("npy", "parquet")]
    files += [] if name == "tabular" else [as_file(served, name)]
    options = ("--seed", str(SEED), "--workers", "1", "-o", str(table), "--model", name)
    assert run("score", *map(str, files), *options) == 0
    first, *others = (
        {key: value for key, value in row.items() if key not in ("row", "source")}
        for row in pq.read_table(table).to_pylist()
    )
    assert others == [first] * (len(files) - 1)
    return {"mc": first}


def by_tritonclient(served: Served, name: str) -> Found:
    pytest.importorskip("tritonclient", reason="tritonclient is not installed")
    found = ask_triton(served)
    return {"predict": found[name], "mc": found[f"{name}-mc"]}


@cache
def ask_triton(served: Served) -> dict[str, Any]:
    program = ROOT / "tests/app/open_inference/clients/triton_tensors.py"
    inputs = served.work / "inputs.npz"
    np.savez(inputs, **{name: given(name) for name in NAMES})
    address = served.address.removeprefix("http://")
    command = [sys.executable, str(program), address, str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


WAYS: dict[str, Callable[[Served, str], Found]] = {
    "routes": by_routes,
    "client": by_client,
    "predict": by_predict,
    "score": by_score,
    "tritonclient": by_tritonclient,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_every_way_gives_the_engines_answer(
    served: Served, name: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DROPSERVE_DATA_DIR", raising=False)
    monkeypatch.setenv("DROPSERVE_MODELS", str(served.folder))
    network = served.network(name)
    engine = build_engine(network)
    mean = sample_probs(engine, given(name), Passes(50, SEED)).astype(np.float64).mean(axis=0)
    expected = {"predict": predict_probs(engine, given(name)).astype(np.float64), "mc": mean}

    for mode, answer in WAYS[way](served, name).items():
        probs = expected[mode]
        index = int(probs.argmax())
        field = "digit" if name in NAMES[:2] else "class_index"
        assert np.ravel(answer[field]).tolist() == [index]
        assert "label" not in answer or answer["label"] == network.config.labels[index]
        found = np.ravel(answer["predictive_entropy"])
        np.testing.assert_allclose(found, [entropy(probs)], atol=1e-5)
        if mode == "mc":
            np.testing.assert_allclose(answer["mean"], probs, atol=1e-6)
            assert np.sum(answer["votes"]) == 50
            assert np.ravel(answer["seed"]).tolist() == [SEED]
