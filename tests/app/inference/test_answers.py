"""Answers from class probabilities: calibration, decisions, prediction sets, and their JSON."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from app.api.application import create_app
from app.inference.answers import AnswerBuilder
from app.inference.encoding import encode_json
from app.inference.jobs import Job
from app.schemas import McParameters, PredictParameters
from app.settings import Settings
from model.checkpoint import Checkpoint, no_calibration
from model.digits.preprocessing import Preprocessed
from tests.conftest import assert_error, connect, sample
from tests.samples.draw import draw_digit

# A clear digit's entropy is far below, that of the ambiguous picture above.
CALIBRATION: dict[str, Any] = {
    "temperature": 1.0,
    "mc_temperature": 1.0,
    "fitted_with": None,
    "thresholds": {"predict": 0.25, "mc": 0.35},
    "conformal": {
        "0.9": {"predict": 1.0, "mc": 1.0},
        "0.99": {"predict": 0.01, "mc": 0.05},
        "0.999": None,
        "1.0": {"predict": 0.0, "mc": 0.0},
    },
}
ROUTES = {"/predict": 0.25, "/predict/mc?seed=1": 0.35}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def decided(default_checkpoint: Checkpoint) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with known thresholds and levels."""
    app: FastAPI = create_app(Settings(), replace(default_checkpoint, calibration=CALIBRATION))
    async with app.router.lifespan_context(app), connect(app) as client:
        yield client


async def ask(client: httpx.AsyncClient, path: str, name: str) -> dict[str, Any]:
    response = await client.post(path, content=sample(name))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def likely(answer: dict[str, Any], least: float) -> list[int]:
    """The classes with at least this probability, the likeliest first."""
    order = sorted(range(10), key=lambda digit: -answer["probabilities"][digit])
    return [digit for digit in order if answer["probabilities"][digit] >= least]


async def test_temperatures_change_probabilities_and_leave_the_raw_statistics(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    calibration = {**default_checkpoint.calibration, "temperature": 2.0, "mc_temperature": 0.5}
    del calibration["by_passes"]
    uncalibrated = {**calibration, "temperature": 1.0, "mc_temperature": 1.0}
    answers = []
    for one in (calibration, uncalibrated):
        app = create_app(Settings(), replace(default_checkpoint, calibration=one))
        async with app.router.lifespan_context(app), connect(app) as other:
            answers.append([await ask(other, path, "doubtful.png") for path in ROUTES])

    for warm, raw, temperature in zip(*answers, (2.0, 0.5), strict=True):
        powers = np.power(raw["probabilities"], 1 / temperature)
        np.testing.assert_allclose(warm["probabilities"], powers / powers.sum(), rtol=1e-4)
        assert warm["confidence"] == max(warm["probabilities"]) != raw["confidence"]
        assert warm["predictive_entropy"] == raw["predictive_entropy"]
        assert warm.get("mean") == raw.get("mean")
        assert warm.get("variance") == raw.get("variance")


# Decisions


@pytest.mark.parametrize(("path", "threshold"), ROUTES.items())
async def test_a_clear_digit_is_accepted(
    decided: httpx.AsyncClient, path: str, threshold: float
) -> None:
    answer = await ask(decided, path, "7.png")
    assert answer["decision"] == {
        "outcome": "accept",
        "reason": None,
        "measure": "predictive_entropy",
        "score": answer["predictive_entropy"],
        "threshold": threshold,
    }


async def test_a_4_that_could_be_a_9_is_ambiguous(decided: httpx.AsyncClient) -> None:
    answer = await ask(decided, "/predict/mc?seed=1", "doubtful.png")
    assert answer["decision"] == {
        "outcome": "abstain",
        "reason": "ambiguous",
        "measure": "predictive_entropy",
        "score": answer["predictive_entropy"],
        "threshold": 0.35,
    }
    assert sum(sorted(answer["mean"])[-2:]) >= 0.75


@pytest.mark.parametrize("path", ROUTES)
async def test_what_is_no_digit_is_unfamiliar(default_checkpoint: Checkpoint, path: str) -> None:
    # A threshold below every score: the reason is what is asked here.
    calibration = {**CALIBRATION, "thresholds": {"predict": 0.0, "mc": 0.0}}
    app = create_app(Settings(), replace(default_checkpoint, calibration=calibration))
    async with app.router.lifespan_context(app), connect(app) as client:
        answer = await ask(client, path, "not_a_digit.png")
    decision = answer["decision"]
    assert (decision["outcome"], decision["reason"]) == ("abstain", "unfamiliar")
    # Far from the two classes that would make it ambiguous.
    assert sum(sorted(answer.get("mean", answer["probabilities"]))[-2:]) < 0.5


@pytest.mark.parametrize("path", ROUTES)
async def test_without_a_threshold_nothing_is_decided(
    default_checkpoint: Checkpoint, path: str
) -> None:
    app = create_app(Settings(), replace(default_checkpoint, calibration=no_calibration()))
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await ask(client, path, "7.png"))["decision"] is None
        separator = "&" if "?" in path else "?"
        response = await client.post(f"{path}{separator}coverage=0.99", content=sample("7.png"))
        error = assert_error(response, 422, "invalid_parameter")
        assert "dropserve-train calibrate" in error["message"]


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


# Prediction sets


@pytest.mark.parametrize(("path", "least"), [("/predict", 0.01), ("/predict/mc?seed=1", 0.05)])
async def test_a_set_holds_the_classes_that_are_likely_enough(
    decided: httpx.AsyncClient, path: str, least: float
) -> None:
    separator = "&" if "?" in path else "?"
    for name in ("7.png", "doubtful.png", "not_a_digit.png"):
        answer = await ask(decided, f"{path}{separator}coverage=0.99", name)
        assert answer["prediction_set"] == likely(answer, least)
        assert answer["prediction_set"][0] == answer["digit"]
        everything = await ask(decided, f"{path}{separator}coverage=1.0", name)
        assert sorted(everything["prediction_set"]) == list(range(10))
        alone = await ask(decided, f"{path}{separator}coverage=0.9", name)
        assert alone["prediction_set"] == [answer["digit"]]
        assert "prediction_set" not in await ask(decided, path, name)


async def test_a_level_in_the_json_body_counts_as_in_the_query(
    decided: httpx.AsyncClient,
) -> None:
    pixels = np.zeros((28, 28), dtype=int)
    pixels[4:24, 13:15] = 255
    body = {"pixels": pixels.tolist(), "seed": 3}
    in_body = await decided.post("/predict/mc", json={**body, "coverage": 0.99})
    in_query = await decided.post("/predict/mc?coverage=0.99", json=body)
    assert in_body.status_code == 200, in_body.text
    assert in_body.content == in_query.content


async def test_batches_decide_and_have_sets_as_single_images_do(
    decided: httpx.AsyncClient,
) -> None:
    names = ["7.png", "doubtful.png"]
    files = [("file", (name, sample(name), "image/png")) for name in names]
    for path in ("/predict", "/predict/mc"):
        query = "coverage=0.99" if path == "/predict" else "coverage=0.99&seed=1"
        batch = (await decided.post(f"{path}/batch?{query}", files=files)).json()
        singles = [await ask(decided, f"{path}?{query}", name) for name in names]
        assert batch == {"predictions": singles}
        assert all("prediction_set" in single for single in singles)


async def test_every_event_of_a_stream_has_a_decision_and_a_set(
    decided: httpx.AsyncClient,
) -> None:
    query = "seed=1&coverage=0.99"
    response = await decided.post(f"/predict/mc/stream?{query}", content=sample("doubtful.png"))
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if "data:" in line]
    answers = [json.loads(event) for event in events]
    assert len(answers) > 2
    for answer in answers:
        score = answer["predictive_entropy"]
        assert answer["decision"]["outcome"] == ("abstain" if score > 0.35 else "accept")
        assert answer["prediction_set"] == likely(answer, 0.05)
    plain = await decided.post(f"/predict/mc?{query}", content=sample("doubtful.png"))
    assert events[-1] == plain.text


@pytest.mark.parametrize("path", ["/predict", "/predict/mc", "/predict/mc/stream"])
@pytest.mark.parametrize("level", ["0.5", "0.999", "99", "0", "-1", "1"])
async def test_another_level_is_refused_naming_those_there_are(
    decided: httpx.AsyncClient, path: str, level: str
) -> None:
    response = await decided.post(f"{path}?coverage={level}", content=sample("7.png"))
    if level == "1":  # the number that 1.0 is
        assert response.status_code == 200
        return
    error = assert_error(response, 422, "invalid_parameter")
    assert error["param"] == "coverage"
    assert "0.9, 0.99, 1.0" in error["message"]


@pytest.mark.parametrize("path", ["/predict/batch", "/predict/mc/batch"])
async def test_another_level_fails_a_batch_as_a_whole(
    decided: httpx.AsyncClient, path: str
) -> None:
    inputs = [{"image": base64.b64encode(sample("7.png")).decode()}]
    response = await decided.post(f"{path}?coverage=0.5", json={"inputs": inputs})
    assert assert_error(response, 422, "invalid_parameter")["param"] == "coverage"


@pytest.mark.parametrize("value", ["high", "true", "-"])
async def test_a_level_is_a_number(decided: httpx.AsyncClient, value: str) -> None:
    response = await decided.post(f"/predict?coverage={value}", content=sample("7.png"))
    assert assert_error(response, 422, "invalid_parameter")["param"] == "coverage"


# The builder alone


def finished_job(probs: NDArray[np.float32], **parameters: Any) -> Job:
    """A job whose passes are computed, from the picture's own network or not."""
    image = Preprocessed(np.zeros((28, 28), dtype=np.uint8))
    job = Job(image, McParameters(passes=len(probs), **{"seed": 3, **parameters}))
    job.advance(probs)
    return job


def random_probs(passes: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(passes)
    return generator.dirichlet(np.ones(10), passes).astype(np.float32)


@pytest.fixture
def builder(default_checkpoint: Checkpoint) -> AnswerBuilder:
    return AnswerBuilder(replace(default_checkpoint, calibration=CALIBRATION))


def test_one_pass_has_neither_variance_nor_standard_error(builder: AnswerBuilder) -> None:
    answer = builder.sampled(finished_job(random_probs(1)))

    assert (answer.variance, answer.standard_error) == (None, None)
    assert (answer.passes, answer.mutual_information) == (1, 0)
    assert answer.expected_entropy == answer.predictive_entropy
    document = json.loads(encode_json(answer))
    assert (document["variance"], document["standard_error"]) == (None, None)


@pytest.mark.parametrize("passes", [7, 1, 50])
def test_the_mean_is_that_of_the_jobs_passes(builder: AnswerBuilder, passes: int) -> None:
    probs = random_probs(passes)
    answer = builder.sampled(finished_job(probs))

    assert answer.passes == passes
    np.testing.assert_allclose(answer.mean, probs.mean(axis=0, dtype=np.float64), rtol=1e-6)


def test_a_partial_result_has_no_reason_to_stop(builder: AnswerBuilder) -> None:
    image = Preprocessed(np.zeros((28, 28), dtype=np.uint8))
    job = Job(image, McParameters(passes=50), is_streamed=True)
    job.advance(random_probs(5))

    answer = builder.sampled(job)

    assert (answer.passes, answer.stop_reason, answer.is_final) == (5, None, False)


def test_a_label_is_the_name_that_the_network_has_for_the_class(
    default_checkpoint: Checkpoint,
) -> None:
    network = default_checkpoint.network
    names = tuple(f"class {letter}" for letter in "abcdefghij")
    renamed = replace(network, config=replace(network.config, labels=names))
    builder = AnswerBuilder(replace(default_checkpoint, network=renamed, calibration=CALIBRATION))
    image = Preprocessed(np.zeros((28, 28), dtype=np.uint8))
    probs = np.full((4, 10), 0.01, np.float32)
    probs[:, 3] = 0.91

    for answer in (
        builder.deterministic(image, PredictParameters(), probs[0]),
        builder.sampled(finished_job(probs)),
    ):
        assert (answer.class_index, answer.digit, answer.label) == (3, None, "class d")


def test_a_score_equal_to_the_threshold_is_accepted(default_checkpoint: Checkpoint) -> None:
    probs = random_probs(1)[0]
    image, parameters = Preprocessed(np.zeros((28, 28), dtype=np.uint8)), PredictParameters()
    score = float(
        AnswerBuilder(default_checkpoint).deterministic(image, parameters, probs).predictive_entropy
    )
    for threshold, outcome in ((score, "accept"), (np.nextafter(score, 0), "abstain")):
        calibration = {**CALIBRATION, "thresholds": {"predict": float(threshold), "mc": None}}
        builder = AnswerBuilder(replace(default_checkpoint, calibration=calibration))
        decision = builder.deterministic(image, parameters, probs).decision
        assert decision is not None
        assert (decision.outcome, decision.score) == (outcome, score)
