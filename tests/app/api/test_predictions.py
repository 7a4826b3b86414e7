"""Right answers: what they hold, and that they depend on the picture and the parameters alone."""

import asyncio
import base64
import dataclasses
import json
import math
import random
from dataclasses import MISSING
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.api.application import create_app
from app.schemas import McPrediction, Prediction
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.network import normalise
from tests.app.api.bad_requests import DIGIT
from tests.app.api.request_bodies import (
    as_json,
    base64_of,
    batch_as_json,
    encode,
    network_input,
    small,
)
from tests.conftest import assert_error, connect, sample
from tests.model.engines.networks import draw_by_site
from tests.model.engines.torch_reference import forward, sample_probs
from training.network import TrainableMLP

NAMES = [f"{digit}.png" for digit in range(10)]
ROUTES = ["/predict", "/predict/mc?seed=1"]


def entropy(probs: NDArray[np.float64]) -> float:
    return -sum(float(p) * math.log(p) for p in probs if p > 0)


def always(answer: type[Prediction]) -> set[str]:
    """Names of the fields that an answer has whatever was asked for."""
    fields = {each.name for each in dataclasses.fields(answer) if each.default is MISSING}
    return fields | {"digit"}  # which other networks have not


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
    logits = forward(network, normalise(network_input(sample(name)), network.config))[0].double()
    temperature = default_checkpoint.calibration["temperature"]

    answer = await ask(client, "/predict", sample(name))

    probabilities = (logits / temperature).softmax(dim=0).numpy()
    np.testing.assert_allclose(answer["probabilities"], probabilities, rtol=1e-3, atol=1e-6)
    assert answer["digit"] == int(name[0]) == np.argmax(answer["probabilities"])
    assert answer["label"] == network.config.labels[answer["digit"]]
    assert answer["confidence"] == max(answer["probabilities"])
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-6)
    uncertainty = entropy(logits.softmax(dim=0).numpy())
    assert answer["predictive_entropy"] == pytest.approx(uncertainty, rel=1e-3, abs=1e-6)
    threshold = default_checkpoint.calibration["thresholds"]["predict"]
    accepts = answer["predictive_entropy"] <= threshold
    assert answer["decision"]["outcome"] == ("accept" if accepts else "abstain")
    assert answer["model"] == {"name": "mnist", "version": default_checkpoint.version}
    assert answer.keys() == always(Prediction)


async def test_an_ambiguous_picture_has_more_entropy_than_a_clear_one(
    client: httpx.AsyncClient,
) -> None:
    for path in ROUTES:
        clear = await ask(client, path, sample("7.png"))
        ambiguous = await ask(client, path, sample("doubtful.png"))

        assert clear["predictive_entropy"] < 0.1 < ambiguous["predictive_entropy"] < math.log(10)
        assert ambiguous["confidence"] < 0.9 < clear["confidence"]


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
    masks = draw_by_site(network.config.dropout_sites, 2**53 - 1, passes)
    x = normalise(network_input(sample("doubtful.png")), network.config)
    probs = sample_probs(TrainableMLP.from_network(network), x, masks)[:, 0].double()  # (T, C)

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


async def test_balanced_passes_are_others_and_say_so(client: httpx.AsyncClient) -> None:
    for passes in (50, 200):
        path = f"/predict/mc?seed=1&passes={passes}"
        plain = await client.post(path, content=sample("doubtful.png"))
        balanced = await client.post(f"{path}&estimator=balanced", content=sample("doubtful.png"))
        named = await client.post(f"{path}&estimator=independent", content=sample("doubtful.png"))

        assert balanced.json()["estimator"] == "balanced"
        assert balanced.json()["mean"] != plain.json()["mean"]
        assert named.content == plain.content


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
    app = create_app(Settings(max_wait_ms=60_000), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as client:
        alone = [await body(path, name) for path, name in asked]
        together = await asyncio.gather(
            *(body(path, name) for path, name in [*unseeded, *crowd]),
        )

    expected = dict(zip(asked, alone, strict=True))
    for one, answer in zip(crowd, together[len(unseeded) :], strict=True):
        assert answer == expected[one], one


# Pictures


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


def shown(steps: dict[str, str]) -> dict[str, Image.Image]:
    """The pictures, which must be small PNGs."""
    pictures: dict[str, Image.Image] = {
        name: Image.open(BytesIO(base64.b64decode(text)), formats=["PNG"])
        for name, text in steps.items()
    }
    assert all(max(picture.size) <= 160 for picture in pictures.values())
    return pictures


@pytest.mark.parametrize("path", ROUTES)
async def test_return_steps_shows_how_the_digit_was_found(
    client: httpx.AsyncClient, path: str
) -> None:
    joint = "&" if "?" in path else "?"
    photo = encode(Image.open(BytesIO(sample("2.png"))).resize((900, 600)))

    answer = await ask(client, f"{path}{joint}return_steps=true", photo)
    body = as_json(image=base64_of(photo), return_steps=True)
    in_json = await client.post(path, **body)
    plain = await ask(client, path, photo)

    assert in_json.json() == answer
    pictures = shown(answer.pop("steps"))
    assert list(pictures) == ["paper", "ink", "digit"]
    width, height = pictures["paper"].size
    assert width == pytest.approx(1.5 * height, abs=2)
    assert answer == plain


@pytest.mark.parametrize("path", ROUTES)
async def test_an_image_in_mnists_form_takes_no_steps(client: httpx.AsyncClient, path: str) -> None:
    joint = "&" if "?" in path else "?"

    assert (await ask(client, f"{path}{joint}return_steps=1", small("2.png")))["steps"] == {}


@pytest.mark.parametrize("path", ["/predict", "/predict/mc", "/predict/mc/stream"])
async def test_a_refused_picture_shows_its_steps_too(client: httpx.AsyncClient, path: str) -> None:
    blank = encode(Image.new("L", (300, 200), 200))

    response = await client.post(f"{path}?return_steps=on", content=blank)
    plain = assert_error(await client.post(path, content=blank), 422, "no_ink")

    error = response.json()["error"]
    assert shown(error.pop("steps"))["paper"].getextrema() == (200, 200)
    assert (response.status_code, error) == (422, {**plain, "request_id": error["request_id"]})


@pytest.mark.parametrize("path", ["/predict/batch", "/predict/mc/batch"])
async def test_a_batch_has_no_steps(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, **batch_as_json([DIGIT], return_steps=True))

    error = assert_error(response, 422, "invalid_parameter")
    assert error["param"] == "return_steps"
    assert "one image" in error["message"]


ACCEPTED: dict[str, bytes] = {
    "animated GIF": encode(
        Image.open(BytesIO(DIGIT)),
        "GIF",
        save_all=True,
        append_images=[Image.open(BytesIO(sample("1.png")))],
    ),
    "CMYK JPEG": encode(Image.open(BytesIO(DIGIT)).convert("CMYK"), "JPEG", quality=95),
    "16-bit PNG": encode(
        Image.fromarray(np.asarray(Image.open(BytesIO(DIGIT))).astype(np.uint16) * 257)
    ),
    "PNG with a comment after its end": DIGIT + b"comment",
    "white on black": encode(Image.eval(Image.open(BytesIO(DIGIT)), lambda value: 255 - value)),
    "photo of 12 megapixels": encode(
        Image.open(BytesIO(DIGIT)).resize((4000, 3000)).convert("RGB"), "JPEG", quality=90
    ),
}


@pytest.mark.parametrize("kind", ACCEPTED)
async def test_unusual_pictures_are_answered(client: httpx.AsyncClient, kind: str) -> None:
    for path in ("/predict", "/predict/mc?seed=1"):
        response = await client.post(path, content=ACCEPTED[kind])

        assert (response.status_code, response.json()["digit"]) == (200, 7)
