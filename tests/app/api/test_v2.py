"""`/v2`: its documents, and the native routes' numbers in its tensors."""

import asyncio
import base64
import logging
from collections import Counter
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from app.api.application import create_app
from app.api.examples import example_png_base64
from app.inference.backlog import Charge
from app.inference.pipeline import Predictor
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.open_inference.bad_requests import (
    GOOD_JSON,
    Bad,
    assert_refused,
    assert_v2_error,
    cases_of,
)
from tests.app.open_inference.inference_requests import (
    DIGITS,
    HEADER_LENGTH,
    MC_OUTPUTS,
    OUTPUTS,
    SEVEN,
    Array,
    InferBody,
    assert_bits,
    binary_body,
    files_body,
    infer,
    json_body,
    read_outputs,
)
from tests.conftest import connect, sample
from tests.load.v2_mutations import mutated_requests

PNG = base64.b64decode(example_png_base64())

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


async def test_the_index_lists_both_models(client: httpx.AsyncClient) -> None:
    for body in (b"", b"{}", b'{"ready": true}'):
        response = await client.post("/v2/repository/index", content=body)

        assert response.json() == [
            {"name": name, "version": "1", "state": "READY", "reason": ""}
            for name in ("mnist", "mnist-mc")
        ]


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
        {"seed": 7, "dropout": 0.6},
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


@pytest.mark.parametrize("is_binary", [False, True])
async def test_with_another_dropout_rate_the_decision_is_none(
    client: httpx.AsyncClient, is_binary: bool
) -> None:
    parameters = {"dropout": 0.5, "binary_data_output": is_binary}
    files = [sample("7.png"), sample("doubtful.png")]

    outputs = read_outputs(await infer(client, "mnist-mc", files_body(files, parameters)))

    assert list(outputs) == MC_OUTPUTS
    assert outputs["decision"].tolist() == ["none", "none"]
    assert outputs["probabilities"].tobytes() == outputs["mean"].tobytes()


async def test_a_batch_of_pixels_equals_its_single_answers(client: httpx.AsyncClient) -> None:
    batch = read_outputs(await infer(client, "mnist", binary_body(DIGITS)))

    assert batch["digit"].tolist() == [number % 10 for number in range(32)]
    for index in (0, 13, 31):
        single = await infer(client, "mnist", json_body(DIGITS[index : index + 1]))
        for name, values in read_outputs(single).items():
            assert values[0].tobytes() == batch[name][index].tobytes()


async def test_a_seed_that_was_drawn_repeats_the_answer(client: httpx.AsyncClient) -> None:
    ambiguous = files_body([sample("doubtful.png")] * 2)
    outputs = read_outputs(await infer(client, "mnist-mc", ambiguous))
    first, second = outputs["seed"].tolist()

    again = files_body([sample("doubtful.png")], {"seed": first})
    repeated = read_outputs(await infer(client, "mnist-mc", again))

    assert first != second
    assert (outputs["mean"][0] != outputs["mean"][1]).any()
    assert repeated["mean"].tobytes() == outputs["mean"][:1].tobytes()


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


# Limits and failures


async def test_admission_counts_passes_and_images(default_checkpoint: Checkpoint) -> None:
    app = create_app(Settings(max_wait_ms=790), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        predictor: Predictor = app.state.models.predictor
        digits = np.repeat(DIGITS, 8, axis=0)
        # Before anything is measured, these take 800 ms; for smaller requests they count less.
        with Charge(predictor.scheduler.backlog, 80_000):
            computed = predictor.engine.passes_computed
            responses = [
                await infer(client, model, json_body(digits[:count], parameters))
                for model, count, parameters in (
                    ("mnist-mc", 64, {"passes": 1000}),
                    ("mnist-mc", 1, {"passes": 1000}),
                    ("mnist", 64, {}),
                )
            ]
            assert predictor.engine.passes_computed == computed + 1000
            assert predictor.scheduler.queued == 80_000

    assert_v2_error(responses[0], 429)
    assert responses[0].headers["retry-after"] == "1"
    assert responses[0].headers["retry-after-ms"] == "800"
    assert [response.status_code for response in responses[1:]] == [200, 200]


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
    """Stands for an unforeseen defect of the predictor."""
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


ROUTES = {
    "an unknown model": Bad(GOOD_JSON, path="/v2/models/nobody/infer", status=404, names="mnist"),
    "an unknown version": Bad(
        GOOD_JSON, path="/v2/models/mnist/versions/2/infer", status=404, names="1"
    ),
    "an unknown address": Bad(GOOD_JSON, path="/v2/models/mnist/guess", status=404),
    "statistics": Bad(b"", path="/v2/models/stats", method="GET", status=404),
    "infer with GET": Bad(b"", method="GET", status=405),
    "an index asked for with a word": Bad(b"ready", path="/v2/repository/index"),
    "an index asked for with a list": Bad(b"[]", path="/v2/repository/index"),
}


TABLE = {**cases_of("route", ROUTES)}


@pytest.mark.parametrize("case", TABLE)
async def test_a_malformed_request_gets_its_status_and_the_server_keeps_serving(
    client: httpx.AsyncClient, case: str
) -> None:
    await assert_refused(client, TABLE[case])


async def test_mutations_of_good_requests_break_nothing(
    app: FastAPI, client: httpx.AsyncClient
) -> None:
    """The short version of `python -m tests.load.v2_mutations`."""
    outcomes: Counter[int] = Counter()
    for request in mutated_requests(600, seed=9):
        response = await client.post(request.path, content=request.content, headers=request.headers)
        outcomes[response.status_code] += 1
        if response.status_code != 200:
            assert_v2_error(response, response.status_code)

    assert outcomes.keys() == {200, 400, 413, 415}
    # Not all of one kind: the mutations reach behind the first check.
    assert outcomes[200] > 20
    assert outcomes[400] > 100
    assert app.state.models.predictor.scheduler.queued == 0
