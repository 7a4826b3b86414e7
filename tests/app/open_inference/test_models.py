"""The Open Inference Protocol: documents, and the native routes' numbers in its tensors."""

import asyncio
import base64
import dataclasses
import gzip
import json
import logging
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.application import create_app
from app.api.examples import example_digits, example_png_base64
from app.errors import ErrorCode
from app.inference.pipeline import Predictor
from app.open_inference.compression import deflate, inflate
from app.open_inference.models import served_models
from app.open_inference.tensors import read_images, read_input_header
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.api_errors import raises_error
from tests.app.open_inference.inference_requests import (
    HEADER_LENGTH,
    Array,
    InferBody,
    binary_body,
    files_body,
    infer,
    json_body,
    read_outputs,
)
from tests.app.open_inference.test_requests import assert_v2_error
from tests.conftest import connect, sample

DIGITS = np.stack(example_digits())
SEVEN = DIGITS[7:8]
PNG = base64.b64decode(example_png_base64())
MC_OUTPUTS = [
    *("digit", "probabilities", "predictive_entropy", "mean", "variance", "standard_error"),
    *("expected_entropy", "mutual_information", "votes", "seed", "decision"),
]
OUTPUTS = ["digit", "probabilities", "predictive_entropy", "decision"]

# Documents


async def test_the_server_says_who_it_is(client: httpx.AsyncClient) -> None:
    for path in ("/v2", "/v2/"):
        document = (await client.get(path)).json()

        assert document.keys() == {"name", "version", "extensions"}
        assert document["name"] == "dropserve"
        assert {"binary_tensor_data", "model_configuration"} <= set(document["extensions"])
        # Counters of one of several workers would run backwards.
        assert "statistics" not in document["extensions"]


async def test_it_is_live_and_ready(client: httpx.AsyncClient) -> None:
    live = await client.get("/v2/health/live")
    ready = await client.get("/v2/health/ready")
    model = await client.get("/v2/models/mnist/ready")

    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()) == (200, {"live": True, "ready": True})
    assert (model.status_code, model.json()) == (200, {"name": "mnist", "ready": True})
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/mnist-mc/ready"):
        assert (await client.head(path)).status_code == 200


async def test_before_it_has_started_it_is_live_and_answers_503(
    default_checkpoint: Checkpoint,
) -> None:
    async with connect(create_app(Settings(), default_checkpoint)) as client:
        assert (await client.get("/v2/health/live")).status_code == 200
        for path in ("/v2/health/ready", "/v2/models/mnist/ready", "/v2/models/mnist"):
            response = await client.get(path)
            assert_v2_error(response, 503)
            assert response.headers["retry-after"] == "1"
        assert_v2_error(await infer(client, "mnist", json_body(SEVEN)), 503)


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


async def test_the_index_lists_both_models(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{}", b'{"ready": true}'):
        response = await client.post("/v2/repository/index", content=body)

        assert response.json() == [
            {"name": name, "version": "1", "state": "READY", "reason": ""}
            for name in ("mnist", "mnist-mc")
        ]


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
    assert decision.values(answers) == ["accept", "abstain"]


# The native numbers


def forms(images: Array, files: list[bytes]) -> dict[str, InferBody]:
    """The same images in every form of body that V2 takes."""
    unit = (images / 255).astype(np.float32)
    nested = json_body(images)
    nested.document["inputs"][0]["data"] = images.reshape(-1, 784).tolist()
    square = json_body(images)
    square.document["inputs"][0] |= {"shape": [len(images), 28, 28], "data": images.tolist()}
    square_binary = binary_body(images)
    square_binary.document["inputs"][0]["shape"] = [len(images), 28, 28]
    raw = InferBody({}, images.tobytes(), {HEADER_LENGTH: "0"})
    encoded = [base64.b64encode(file).decode() for file in files]
    image = {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": encoded}
    return {
        "UINT8 in JSON, flat": json_body(images),
        "UINT8 in JSON, nested": nested,
        "UINT8 in JSON, rows": square,
        "FP32 in JSON": json_body(unit),
        "UINT8 raw": binary_body(images),
        "UINT8 raw, rows": square_binary,
        "FP32 raw": binary_body(unit),
        "BYTES in JSON": InferBody({"inputs": [image]}),
        "BYTES raw": files_body(files),
        "no JSON at all": raw,
    }


def content_of(body: InferBody) -> bytes:
    return (body.raw or b"") if not body.document else body.content


def assert_bits(outputs: dict[str, Array], index: int, native: dict[str, Any]) -> None:
    """One image's outputs are the native answer's numbers; floats bit for bit."""
    for name, values in outputs.items():
        value = values[index]
        if name == "decision":
            assert value == native[name]["outcome"]
            continue
        expected = np.array(native[name], dtype=value.dtype)
        assert value.shape == expected.shape, name
        assert value.tobytes() == expected.tobytes(), name


@pytest.mark.parametrize("form", forms(SEVEN, [PNG]))
async def test_an_answer_is_the_native_answer_bit_for_bit(
    client: httpx.AsyncClient, form: str
) -> None:
    parameters = {"seed": 11, "passes": 64}
    if form == "no JSON at all":
        parameters = {}
    for model, path in (("mnist", "/predict"), ("mnist-mc", "/predict/mc")):
        body = forms(SEVEN, [PNG])[form]
        if model == "mnist-mc" and parameters:
            body.document.setdefault("parameters", {}).update(parameters)
        response = await client.post(
            f"/v2/models/{model}/infer", content=content_of(body), headers=body.all_headers
        )
        outputs = read_outputs(response)
        query = parameters or {"seed": int(outputs["seed"][0]) if "seed" in outputs else 0}
        native = await client.post(
            path, content=PNG, params=query if path == "/predict/mc" else None
        )

        assert list(outputs) == (MC_OUTPUTS if model == "mnist-mc" else OUTPUTS)
        assert_bits(outputs, 0, native.json())


@pytest.mark.parametrize(
    "parameters",
    [
        {"seed": 3},
        {"seed": 2**53 - 1, "passes": 7},
        {"seed": 4, "passes": 200, "estimator": "balanced"},
        {"seed": 5, "passes": 400, "max_standard_error": 0.02},
        {"seed": 6, "preprocess": "auto", "timeout": 20_000_000},
    ],
)
@pytest.mark.parametrize("is_binary", [False, True])
async def test_every_image_of_a_batch_gets_its_native_answer(
    client: httpx.AsyncClient, parameters: dict[str, Any], is_binary: bool
) -> None:
    names = ("0.png", "doubtful.png", "7.png")
    files = [sample(name) for name in names]
    body = files_body(files, {**parameters, "binary_data_output": is_binary})

    outputs = read_outputs(await infer(client, "mnist-mc", body))

    query = {name: value for name, value in parameters.items() if name != "timeout"}
    for index, file in enumerate(files):
        native = await client.post("/predict/mc", content=file, params=query)
        assert_bits(outputs, index, native.json())
    assert (outputs["seed"] == parameters["seed"]).all()


async def test_a_batch_of_pixels_equals_its_single_answers(client: httpx.AsyncClient) -> None:
    batch = read_outputs(await infer(client, "mnist", binary_body(DIGITS)))

    assert batch["digit"].tolist() == [number % 10 for number in range(32)]
    for index in (0, 13, 31):
        single = await infer(client, "mnist", json_body(DIGITS[index : index + 1]))
        for name, values in read_outputs(single).items():
            assert values[0].tobytes() == batch[name][index].tobytes()


async def test_a_seed_that_was_drawn_repeats_the_answer(client: httpx.AsyncClient) -> None:
    doubtful = files_body([sample("doubtful.png")] * 2)
    outputs = read_outputs(await infer(client, "mnist-mc", doubtful))
    first, second = outputs["seed"].tolist()

    again = files_body([sample("doubtful.png")], {"seed": first})
    repeated = read_outputs(await infer(client, "mnist-mc", again))

    assert first != second
    assert (outputs["mean"][0] != outputs["mean"][1]).any()
    assert repeated["mean"].tobytes() == outputs["mean"][:1].tobytes()


def test_every_level_of_8_bits_survives_as_fp32() -> None:
    levels = np.arange(784, dtype=np.uint8).reshape(1, 784)
    unit = (levels / np.float32(255)).astype(np.float32)
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 784]}

    raw = {**tensor, "parameters": {"binary_data_size": unit.nbytes}}
    written = {**tensor, "data": unit.ravel().tolist()}
    (from_raw,) = read_images(read_input_header(raw, 1), memoryview(unit.tobytes()))
    (from_json,) = read_images(read_input_header(written, 1), memoryview(b""))

    assert isinstance(from_raw, np.ndarray)
    assert isinstance(from_json, np.ndarray)
    assert from_raw.tobytes() == levels.tobytes() == from_json.tobytes()


@pytest.mark.parametrize("mode", ["auto", "none", None])
async def test_pixels_are_taken_as_they_are_unless_asked_otherwise(
    client: httpx.AsyncClient, mode: str | None
) -> None:
    shifted = np.roll(SEVEN, 6, axis=2)
    rows = {"pixels": shifted[0].tolist(), "preprocess": mode or "none"}
    parameters = {} if mode is None else {"preprocess": mode}

    for body in (json_body(shifted, parameters), binary_body(shifted, parameters)):
        outputs = read_outputs(await infer(client, "mnist", body))
        assert_bits(outputs, 0, (await client.post("/predict", json=rows)).json())


@pytest.mark.parametrize("model", ["mnist", "mnist-mc"])
async def test_noise_and_nothing_are_answered(client: httpx.AsyncClient, model: str) -> None:
    # What perf_analyzer sends.
    noise = np.random.default_rng(1).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    for pixels in (noise, np.zeros_like(noise)):
        raw = InferBody({}, pixels.tobytes(), {HEADER_LENGTH: "0"})
        assert (await infer(client, model, binary_body(pixels))).status_code == 200
        response = await client.post(
            f"/v2/models/{model}/infer", content=content_of(raw), headers=raw.all_headers
        )
        assert response.status_code == 200


# What the answer holds


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


async def test_one_pass_has_no_scatter(client: httpx.AsyncClient) -> None:
    outputs = read_outputs(await infer(client, "mnist-mc", json_body(SEVEN, {"passes": 1})))

    assert list(outputs) == [
        name for name in MC_OUTPUTS if name not in ("variance", "standard_error")
    ]


async def test_the_same_request_gets_the_same_bytes_under_load(client: httpx.AsyncClient) -> None:
    body = binary_body(SEVEN, {"seed": 1})
    alone = await infer(client, "mnist-mc", body)

    loaded = await asyncio.gather(*(infer(client, "mnist-mc", body) for _ in range(40)))

    assert {response.content for response in loaded} == {alone.content}


async def test_a_content_type_changes_nothing(client: httpx.AsyncClient) -> None:
    body = binary_body(SEVEN)
    expected = await infer(client, "mnist", body)
    for content_type in ("application/json", "text/plain", "image/png", "multipart/form-data", "?"):
        body.headers["content-type"] = content_type
        response = await infer(client, "mnist", body)

        assert (response.status_code, response.content) == (200, expected.content)


# Limits


async def test_admission_counts_passes_and_images(default_checkpoint: Checkpoint) -> None:
    app = create_app(Settings(max_queued_passes=10_000), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        predictor: Predictor = app.state.models.predictor
        with predictor.scheduler.admit(6000):
            # Each needs room for twenty of its kind, and 4000 are left.
            computed = predictor.engine.passes_computed
            responses = [
                await infer(client, model, json_body(DIGITS[:count], parameters))
                for model, count, parameters in (
                    ("mnist-mc", 1, {"passes": 169}),
                    ("mnist-mc", 2, {"passes": 69}),
                    ("mnist", 11, {}),
                    ("mnist-mc", 1, {"passes": 168}),
                    ("mnist", 10, {}),
                )
            ]
            assert predictor.engine.passes_computed == computed + 168
            assert predictor.scheduler.queued == 6000

    for response in responses[:3]:
        assert_v2_error(response, 429)
        assert int(response.headers["retry-after"]) >= 1
    assert [response.status_code for response in responses[3:]] == [200, 200]


@pytest.mark.parametrize("deadline", [{"timeout": 1}, {"timeout": 1000}, {"timeout_ms": 1}])
async def test_what_is_not_computed_in_time_is_504(
    client: httpx.AsyncClient, deadline: dict[str, int]
) -> None:
    body = json_body(DIGITS, {"passes": 1000, **deadline})

    assert "took longer" in assert_v2_error(await infer(client, "mnist-mc", body), 504)


async def test_a_batch_is_as_large_as_the_settings_say(default_checkpoint: Checkpoint) -> None:
    app = create_app(Settings(max_batch_images=3), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await client.get("/v2/models/mnist/config")).json()["max_batch_size"] == 3
        assert (await infer(client, "mnist", json_body(DIGITS[:3]))).status_code == 200
        assert "3 images" in assert_v2_error(
            await infer(client, "mnist", json_body(DIGITS[:4])), 413
        )


async def test_an_image_without_ink_fails_its_batch_and_is_named(
    client: httpx.AsyncClient,
) -> None:
    digits = DIGITS[:3].copy()
    digits[1] = 0

    body = json_body(digits, {"preprocess": "auto"})
    message = assert_v2_error(await infer(client, "mnist", body), 400)

    assert message.startswith("image 1 of the batch: no ink")


async def fail(image: Any, parameters: Any) -> Any:
    """Stands for a defect of the predictor that nobody foresaw."""
    raise RuntimeError("/etc/secret line 42")


async def test_a_defect_is_answered_in_v2s_shape(
    default_checkpoint: Checkpoint,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(Settings(), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        with monkeypatch.context() as patched:
            patched.setattr(app.state.models.predictor, "predict", fail)
            broken = await infer(client, "mnist", json_body(SEVEN))

    message = assert_v2_error(broken, 500)
    assert "secret" not in message
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_native_addresses_keep_their_own_error_shape(client: httpx.AsyncClient) -> None:
    for path in ("/v2x", "/V2", "/v1/models"):
        error = (await client.get(path)).json()["error"]

        assert error["code"] == "not_found"


# Compression


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity", "GZIP"])
async def test_a_compressed_request_is_the_same_request(
    client: httpx.AsyncClient, encoding: str
) -> None:
    body = binary_body(DIGITS, {"seed": 1})
    plain = await infer(client, "mnist-mc", body)
    compress: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda content: gzip.compress(content),
        "deflate": lambda content: zlib.compress(content),
    }

    response = await client.post(
        "/v2/models/mnist-mc/infer",
        content=compress.get(encoding.lower(), bytes)(body.content),
        headers={**body.all_headers, "content-encoding": encoding},
    )

    assert response.status_code == 200, response.text
    assert response.content == plain.content


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("br;q=1.0, gzip;q=0.5", "gzip"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0.0", None),
        ("identity", None),
        ("br", None),
        ("", None),
    ],
)
async def test_a_response_is_compressed_as_the_client_wishes(
    client: httpx.AsyncClient, accepted: str, expected: str | None
) -> None:
    body = json_body(DIGITS, {"seed": 1})
    body.headers["accept-encoding"] = "identity"
    plain = await infer(client, "mnist-mc", body)
    body.headers["accept-encoding"] = accepted

    response = await infer(client, "mnist-mc", body)

    assert response.headers.get("content-encoding") == expected
    assert response.content == plain.content  # httpx inflates


async def test_a_small_response_is_left_as_it_is(client: httpx.AsyncClient) -> None:
    body = json_body(SEVEN)
    body.headers["accept-encoding"] = "gzip"

    assert "content-encoding" not in (await infer(client, "mnist", body)).headers


@pytest.mark.parametrize("size", [1, 64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 10**6])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_is_inflated_and_deflated_stays_the_same(size: int, encoding: str) -> None:
    content = np.random.default_rng(1).integers(0, 4, size, dtype=np.uint8).tobytes()
    compressed, name = await deflate(content.ljust(1024), encoding)

    assert name == encoding
    assert await inflate(compressed, encoding, 2 * 10**6) == content.ljust(1024)


@pytest.mark.parametrize("limit", [100, 64 * 1024, 100_000])
async def test_the_limit_of_inflating_is_exact(limit: int) -> None:
    assert len(await inflate(gzip.compress(bytes(limit)), "gzip", limit)) == limit
    with raises_error(ErrorCode.BODY_TOO_LARGE):
        await inflate(gzip.compress(bytes(limit + 1)), "gzip", limit)
