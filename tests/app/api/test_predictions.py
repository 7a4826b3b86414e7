"""Right answers: what they hold, and that they depend on the picture and the parameters alone."""

import asyncio
import base64
import dataclasses
import json
import math
import random
from collections.abc import Callable
from dataclasses import MISSING, replace
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from app.api.application import create_app
from app.schemas import McPrediction, Prediction
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.digits.preprocessing import preprocess_image
from model.engines.reference import sample_probs
from model.network import normalise
from model.sampling.masks import draw_masks
from tests.conftest import assert_error, connect, sample
from tests.samples.draw import draw_digit

Pixels = NDArray[np.uint8]

NAMES = [f"{digit}.png" for digit in range(10)]
ROUTES = ["/predict", "/predict/mc?seed=1"]


def network_input(picture: bytes) -> Pixels:
    """The 28x28 pixels that the network should see."""
    with Image.open(BytesIO(picture)) as image:
        return preprocess_image(np.array(image.convert("L")))


def encode(pixels: Pixels, image_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def entropy(probs: NDArray[np.float64]) -> float:
    return -sum(float(p) * math.log(p) for p in probs if p > 0)


def always(answer: type[Prediction]) -> set[str]:
    """Names of the fields that an answer has whatever was asked for."""
    return {each.name for each in dataclasses.fields(answer) if each.default is MISSING}


async def ask(client: httpx.AsyncClient, path: str, content: bytes) -> dict[str, Any]:
    response = await client.post(path, content=content)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


# The deterministic answer


@pytest.mark.parametrize("name", NAMES)
async def test_a_digit_gets_the_networks_own_answer(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint, name: str
) -> None:
    network = default_checkpoint.network
    with torch.inference_mode():
        logits = network(normalise(network_input(sample(name)), network.config))[0].double()
    temperature = default_checkpoint.calibration["temperature"]

    answer = await ask(client, "/predict", sample(name))

    probabilities = (logits / temperature).softmax(dim=0).numpy()
    np.testing.assert_allclose(answer["probabilities"], probabilities, rtol=1e-3, atol=1e-6)
    assert answer["digit"] == int(name[0]) == np.argmax(answer["probabilities"])
    assert answer["label"] == network.config.labels[answer["digit"]]
    assert answer["confidence"] == max(answer["probabilities"])
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-6)
    doubt = entropy(logits.softmax(dim=0).numpy())
    assert answer["predictive_entropy"] == pytest.approx(doubt, rel=1e-3, abs=1e-6)
    threshold = default_checkpoint.calibration["thresholds"]["predict"]
    accepts = answer["predictive_entropy"] <= threshold
    assert answer["decision"]["outcome"] == ("accept" if accepts else "abstain")
    assert answer["model"] == {"name": "mnist", "version": default_checkpoint.version}
    assert answer.keys() == always(Prediction)


async def test_the_doubtful_picture_has_more_entropy_than_a_clear_one(
    client: httpx.AsyncClient,
) -> None:
    for path in ROUTES:
        clear = await ask(client, path, sample("7.png"))
        doubtful = await ask(client, path, sample("doubtful.png"))

        assert clear["predictive_entropy"] < 0.1 < doubtful["predictive_entropy"] < math.log(10)
        assert doubtful["confidence"] < 0.9 < clear["confidence"]


async def test_temperatures_change_probabilities_and_leave_the_raw_statistics(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    calibration = {**default_checkpoint.calibration, "temperature": 2.0, "mc_temperature": 0.5}
    uncalibrated = {**calibration, "temperature": 1.0, "mc_temperature": 1.0}
    answers = []
    for one in (calibration, uncalibrated):
        app = create_app(Settings(), replace(default_checkpoint, calibration=one))
        async with app.router.lifespan_context(app), connect(app) as other:
            answers.append([await ask(other, path, sample("doubtful.png")) for path in ROUTES])

    for warm, raw, temperature in zip(*answers, (2.0, 0.5), strict=True):
        powers = np.power(raw["probabilities"], 1 / temperature)
        np.testing.assert_allclose(warm["probabilities"], powers / powers.sum(), rtol=1e-4)
        assert warm["confidence"] == max(warm["probabilities"]) != raw["confidence"]
        assert warm["predictive_entropy"] == raw["predictive_entropy"]
        assert warm.get("mean") == raw.get("mean")
        assert warm.get("variance") == raw.get("variance")


# The answer with dropout on


@pytest.mark.parametrize("name", [*NAMES, "doubtful.png", "not_a_digit.png"])
async def test_the_fields_of_an_mc_answer_fit_each_other(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint, name: str
) -> None:
    answer = await ask(client, "/predict/mc?passes=40&seed=3", sample(name))

    assert answer.keys() == always(McPrediction)
    mean, variance = np.array(answer["mean"]), np.array(answer["variance"])
    if name in NAMES:
        assert answer["digit"] == int(name[0])
    assert answer["digit"] == np.argmax(answer["probabilities"])
    assert answer["label"] == default_checkpoint.network.config.labels[answer["digit"]]
    assert answer["confidence"] == max(answer["probabilities"])
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-6)
    assert mean.sum() == pytest.approx(1, abs=1e-6)
    assert (answer["passes"], answer["stop_reason"]) == (40, "passes")
    assert (answer["seed"], answer["estimator"]) == (3, "independent")
    assert sum(answer["votes"]) == 40
    assert min(answer["votes"]) >= 0
    np.testing.assert_allclose(answer["standard_error"], np.sqrt(variance / 40), rtol=1e-5)
    # Of what lies in [0, 1] with this mean, nothing varies more.
    assert (variance >= 0).all()
    assert (variance <= mean * (1 - mean) * 40 / 39 + 1e-6).all()
    assert answer["predictive_entropy"] == pytest.approx(entropy(mean), rel=1e-4, abs=1e-6)
    assert 0 <= answer["expected_entropy"] <= answer["predictive_entropy"] + 1e-6
    assert answer["mutual_information"] == pytest.approx(
        answer["predictive_entropy"] - answer["expected_entropy"], abs=1e-6
    )
    threshold = default_checkpoint.calibration["thresholds"]["mc"]
    accepts = answer["predictive_entropy"] <= threshold
    assert answer["decision"]["outcome"] == ("accept" if accepts else "abstain")
    assert answer["model"] == {"name": "mnist", "version": default_checkpoint.version}


@pytest.mark.parametrize("passes", [2, 50, 300])
async def test_seed_and_passes_are_those_of_the_masks(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint, passes: int
) -> None:
    network = default_checkpoint.network
    masks = draw_masks(network.config, seed=2**53 - 1, passes=passes)
    x = normalise(network_input(sample("doubtful.png")), network.config)
    with torch.inference_mode():
        probs = sample_probs(network, x, masks)[:, 0].double()  # (T, C)

    answer = await ask(
        client, f"/predict/mc?seed={2**53 - 1}&passes={passes}", sample("doubtful.png")
    )

    np.testing.assert_allclose(answer["mean"], probs.mean(dim=0).numpy(), atol=1e-5)
    np.testing.assert_allclose(answer["variance"], probs.var(dim=0).numpy(), atol=1e-5)
    assert answer["votes"] == probs.argmax(dim=1).bincount(minlength=10).tolist()
    assert answer["seed"] == 2**53 - 1


async def test_fifty_passes_are_the_default(client: httpx.AsyncClient) -> None:
    default = await client.post("/predict/mc?seed=5", content=sample("4.png"))
    asked_for = await client.post("/predict/mc?seed=5&passes=50", content=sample("4.png"))

    assert default.json()["passes"] == 50
    assert default.content == asked_for.content


async def test_one_pass_has_no_variance(client: httpx.AsyncClient) -> None:
    answer = await ask(client, "/predict/mc?passes=1&seed=1", sample("doubtful.png"))

    assert answer["variance"] is None
    assert answer["standard_error"] is None
    assert answer["mutual_information"] == 0
    assert answer["expected_entropy"] == answer["predictive_entropy"] > 0
    assert sorted(answer["votes"]) == [0] * 9 + [1]


async def test_the_most_passes_that_the_server_allows_are_answered(
    client: httpx.AsyncClient,
) -> None:
    most = Settings().max_passes

    assert (await ask(client, f"/predict/mc?passes={most}", sample("8.png")))["passes"] == most


# Seeds


async def test_a_seed_repeats_its_body_and_another_seed_does_not(
    client: httpx.AsyncClient,
) -> None:
    bodies = [
        (await client.post(f"/predict/mc?seed={seed}", content=sample("doubtful.png"))).content
        for seed in (7, 8, 7, 0)
    ]

    assert bodies[0] == bodies[2]
    means = {json.dumps(json.loads(body)["mean"]) for body in bodies}
    assert len(means) == 3


async def test_without_a_seed_each_request_draws_one_that_repeats_its_answer(
    client: httpx.AsyncClient,
) -> None:
    picture = sample("doubtful.png")
    drawn = [await client.post("/predict/mc?passes=3", content=picture) for _ in range(40)]

    seeds = [response.json()["seed"] for response in drawn]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert max(seeds) > 2**24  # not merely counted
    for response, seed in zip(drawn, seeds, strict=True):
        again = await client.post(f"/predict/mc?passes=3&seed={seed}", content=picture)
        assert again.content == response.content


async def test_two_workers_never_share_a_drawn_seed(default_checkpoint: Checkpoint) -> None:
    seeds: list[int] = []
    for _ in range(2):
        # Forked workers begin with the same state of every global generator.
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        app = create_app(Settings(), default_checkpoint)
        async with app.router.lifespan_context(app), connect(app) as client:
            for _ in range(100):
                answer = await ask(client, "/predict/mc?passes=1", sample("1.png"))
                seeds.append(answer["seed"])

    assert len(set(seeds)) == 200


async def test_a_seed_gives_the_same_body_in_another_worker(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    app = create_app(Settings(), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as other:
        for path in ROUTES:
            here = await client.post(path, content=sample("doubtful.png"))
            there = await other.post(path, content=sample("doubtful.png"))
            assert here.content == there.content


async def test_an_answer_is_the_same_under_load(default_checkpoint: Checkpoint) -> None:
    async def body(path: str, name: str) -> bytes:
        response = await client.post(path, content=sample(name))
        assert response.status_code == 200
        return response.content

    asked = [
        (path, name)
        for name in [*NAMES, "doubtful.png"]
        for path in ("/predict", "/predict/mc?seed=1&passes=200", "/predict/mc?seed=2&passes=3")
    ]
    crowd = asked * 3
    random.Random(0).shuffle(crowd)
    unseeded = [("/predict/mc?passes=500", "doubtful.png")] * 10
    app = create_app(Settings(max_queued_passes=100_000), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        alone = [await body(path, name) for path, name in asked]
        together = await asyncio.gather(
            *(body(path, name) for path, name in [*unseeded, *crowd]),
        )

    expected = dict(zip(asked, alone, strict=True))
    for one, answer in zip(crowd, together[len(unseeded) :], strict=True):
        assert answer == expected[one], one


# Forms of the body


def as_json(**fields: Any) -> dict[str, Any]:
    return {
        "content": json.dumps(fields).encode(),
        "headers": {"content-type": "application/json"},
    }


def base64_of(picture: bytes) -> str:
    return base64.b64encode(picture).decode()


def in_lines(text: str) -> str:
    """As the command `base64` prints it."""
    return "\n".join(text[start : start + 76] for start in range(0, len(text), 76)) + "\n"


def raw(content_type: str | None) -> Callable[[Pixels], dict[str, Any]]:
    headers = {} if content_type is None else {"content-type": content_type}
    return lambda pixels: {"content": encode(pixels, "PNG"), "headers": headers}


BODIES: dict[str, Callable[[Pixels], dict[str, Any]]] = {
    "raw": raw(None),
    "raw, image/png": raw("image/png"),
    "raw, IMAGE/PNG with a parameter": raw("IMAGE/PNG; charset=binary"),
    "raw, another image type than the bytes": raw("image/jpeg"),
    "raw, as a browser sends a file of unknown type": raw("application/octet-stream"),
    "raw, as curl --data-binary sends it": raw("application/x-www-form-urlencoded"),
    "multipart file": lambda p: {"files": {"file": ("7.png", encode(p, "PNG"), "image/png")}},
    "multipart image": lambda p: {"files": {"image": ("7.png", encode(p, "PNG"))}},
    "multipart data, typed text": lambda p: {
        "files": {"data": ("7.png", encode(p, "PNG"), "text/plain")}
    },
    "JSON image": lambda p: as_json(image=base64_of(encode(p, "PNG"))),
    "JSON image, lines": lambda p: as_json(image=in_lines(base64_of(encode(p, "PNG")))),
    "JSON image, data URL": lambda p: as_json(
        image="data:image/png;base64," + base64_of(encode(p, "PNG"))
    ),
    "JSON image, with a charset": lambda p: {
        "content": json.dumps({"image": base64_of(encode(p, "PNG"))}),
        "headers": {"content-type": "Application/JSON; charset=utf-8"},
    },
    "JSON pixels, rows": lambda p: as_json(pixels=p.tolist()),
    "JSON pixels, flat": lambda p: as_json(pixels=p.ravel().tolist()),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("form", BODIES)
async def test_every_form_of_body_gives_the_same_answer(
    client: httpx.AsyncClient, form: str, path: str
) -> None:
    pixels = network_input(sample("7.png"))
    expected = await client.post(path, content=encode(pixels, "PNG"))

    response = await client.post(path, **BODIES[form](pixels))

    assert expected.json()["digit"] == 7
    assert (response.status_code, response.content) == (200, expected.content)


FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "WEBP": {"lossless": True},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
}


@pytest.mark.parametrize("image_format", FORMATS)
async def test_every_image_format_gives_the_answer_of_its_pixels(
    client: httpx.AsyncClient, image_format: str
) -> None:
    data = encode(network_input(sample("3.png")), image_format, **FORMATS[image_format])
    with Image.open(BytesIO(data)) as image:
        pixels = np.array(image.convert("L"))
    mime = f"image/{image_format.lower()}"
    for path in ("/predict?preprocess=none", "/predict/mc?seed=1&preprocess=none"):
        expected = await client.post(path, **as_json(pixels=pixels.tolist()))
        assert expected.json()["digit"] == 3

        for headers in ({"content-type": mime}, {}):
            response = await client.post(path, content=data, headers=headers)
            assert (response.status_code, response.content) == (200, expected.content)


async def test_large_and_small_files_get_the_same_treatment(client: httpx.AsyncClient) -> None:
    # 140x140 is decoded in a thread and its 28x28 on the event loop.
    picture = sample("5.png")
    small = encode(network_input(picture), "PNG")

    for path in ROUTES:
        large_answer = await client.post(path, content=picture)
        small_answer = await client.post(path, content=small)
        assert large_answer.content == small_answer.content


# Parameters

PARAMETERS: dict[str, Any] = {
    "preprocess": "none",
    "return_input": True,
    "passes": 7,
    "seed": 123_456_789_012,
}
QUERY = "preprocess=none&return_input=true&passes=7&seed=123456789012"


def with_parameters(form: str, picture: bytes) -> tuple[str, dict[str, Any]]:
    """Where and how to ask for `PARAMETERS` in one of the forms."""
    file = {"file": ("3.png", picture)}
    texts = dict(pair.split("=") for pair in QUERY.split("&"))
    match form:
        case "query":
            return f"/predict/mc?{QUERY}", {"content": picture}
        case "JSON":
            return "/predict/mc", as_json(image=base64_of(picture), **PARAMETERS)
        case "form":
            return "/predict/mc", {"files": file, "data": texts}
        case "query, for JSON":
            return f"/predict/mc?{QUERY}", as_json(image=base64_of(picture))
        case "query, for a form":
            return f"/predict/mc?{QUERY}", {"files": file}
        case "twice the same":
            path = f"/predict/mc?{QUERY}&{QUERY}"
            return path, as_json(image=base64_of(picture), **PARAMETERS)
        case _:
            raise AssertionError(form)


@pytest.mark.parametrize(
    "form", ["query", "JSON", "form", "query, for JSON", "query, for a form", "twice the same"]
)
async def test_parameters_mean_the_same_wherever_they_stand(
    client: httpx.AsyncClient, form: str
) -> None:
    # Off its centre, so that `none` gives another answer than `auto`.
    pixels = np.roll(network_input(sample("3.png")), 3, axis=1)
    path, body = with_parameters(form, encode(pixels, "PNG"))

    response = await client.post(path, **body)

    assert response.status_code == 200, response.text
    answer = response.json()
    assert (answer["passes"], answer["seed"]) == (7, 123_456_789_012)
    assert answer["input"] == pixels.tolist()
    reference = await client.post(f"/predict/mc?{QUERY}", content=encode(pixels, "PNG"))
    assert response.content == reference.content


@pytest.mark.parametrize("path", ROUTES)
async def test_return_input_shows_what_the_network_saw(
    client: httpx.AsyncClient, path: str
) -> None:
    picture = sample("2.png")
    joint = "&" if "?" in path else "?"

    answer = await ask(client, f"{path}{joint}return_input=true", picture)
    plain = await ask(client, path, picture)

    assert answer.pop("input") == network_input(picture).tolist()
    assert answer == plain
    assert "input" not in await ask(client, f"{path}{joint}return_input=false", picture)


async def test_the_input_that_came_back_gets_the_same_answer(client: httpx.AsyncClient) -> None:
    seen = (await ask(client, "/predict?return_input=true", sample("6.png")))["input"]

    for path in ROUTES:
        original = await client.post(path, content=sample("6.png"))
        returned = await client.post(path, **as_json(pixels=seen))
        assert returned.content == original.content


# Request ids


@pytest.mark.parametrize("given", ["a", "7d0c.A_b-c", "x" * 128])
async def test_a_valid_request_id_is_echoed_in_the_header_alone(
    client: httpx.AsyncClient, given: str
) -> None:
    for path in (*ROUTES, "/health/live", "/docs"):
        method = "POST" if path in ROUTES else "GET"
        content = sample("7.png") if path in ROUTES else b""
        headers = {"x-request-id": given}
        response = await client.request(method, path, content=content, headers=headers)

        assert (response.status_code, response.headers["x-request-id"]) == (200, given)
        assert "request_id" not in response.text
        assert len(given) < 8 or given not in response.text


@pytest.mark.parametrize(
    "given", [None, "", "two words", "x" * 129, "<script>", "a,b", "tab\tbed", b"\xff", "new\u00e9"]
)
async def test_any_other_request_id_is_replaced(
    client: httpx.AsyncClient, given: str | bytes | None
) -> None:
    value = given.encode() if isinstance(given, str) else given
    headers: dict[bytes, bytes] = {} if value is None else {b"x-request-id": value}
    ids = set()
    for path, status in (("/predict", 200), ("/predict", 200), ("/nowhere", 404)):
        response = await client.post(path, content=sample("7.png"), headers=headers)
        assert response.status_code == status
        ids.add(response.headers["x-request-id"])

    assert len(ids) == 3
    assert all(len(one) == 32 and one.isalnum() for one in ids)


# Operations


async def test_the_server_says_what_it_serves(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    card = (await client.get("/model")).json()

    identity = {key: card.pop(key) for key in ("name", "version")}
    assert identity == {"name": "mnist", "version": default_checkpoint.version}
    assert card == json.loads(json.dumps(default_checkpoint.card()))
    assert card["config"]["layer_sizes"] == [784, 512, 256, 128, 10]


async def test_a_server_is_ready_only_while_it_runs(
    app: FastAPI, default_checkpoint: Checkpoint
) -> None:
    other = create_app(Settings(), default_checkpoint)
    async with connect(other) as client:
        before = await client.get("/health/ready")
        async with other.router.lifespan_context(other):
            during = await client.get("/health/ready")
            live = await client.get("/health/live")
        after = await client.get("/health/ready")

    assert [one.status_code for one in (before, during, after)] == [503, 200, 503]
    assert before.json()["error"]["code"] == "not_ready"
    assert int(before.headers["retry-after"]) >= 1
    assert (during.json(), live.json()) == ({"status": "ready"}, {"status": "live"})


def number(*digits: int) -> bytes:
    """Digits side by side, as a PNG."""
    drawn = [np.array(draw_digit(digit)) for digit in digits]
    file = BytesIO()
    Image.fromarray(np.concatenate(drawn, axis=1)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("path", ["/predict", "/predict/mc?seed=1"])
async def test_several_digits_are_no_silent_guess(client: httpx.AsyncClient, path: str) -> None:
    answer = (await client.post(path, content=number(4, 2))).json()
    decision = answer["decision"]
    assert (decision["outcome"], decision["reason"]) == ("abstain", "several_digits")
    first, second = decision["boxes"]
    # Each digit was drawn on 140 pixels of its own.
    assert 0 < first[0] < first[2] < 140 < second[0] < second[2] < 280
    single = (await client.post(path, content=number(4))).json()
    assert "boxes" not in single["decision"]


@pytest.mark.parametrize("digits", [60, 309, 500])
async def test_a_number_may_have_as_many_digits_as_a_float_can(
    client: httpx.AsyncClient, digits: int
) -> None:
    path = f"/predict/mc?passes=33&max_standard_error={'1' * digits}"
    response = await client.post(path, content=sample("7.png"))

    if digits == 500:
        assert_error(response, 422, "invalid_parameter")
    else:
        assert response.json()["stop_reason"] == "standard_error"
