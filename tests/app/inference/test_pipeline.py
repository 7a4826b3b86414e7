"""The predictor: batches, deadlines, failures, admission, and the passes that it returns."""

import asyncio
import base64
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI
from PIL import Image

from app.errors import ApiError, ErrorCode
from app.inference.backlog import Charge
from app.inference.pipeline import Predictor
from app.schemas import McParameters, Prediction, PredictParameters
from app.settings import Settings
from model.arrays import Probs
from model.checkpoint import Checkpoint
from model.network import normalise
from model.uncertainty.statistics import Summary, summarise
from tests.api_errors import is_error, raises_error
from tests.app.api.conversation import (
    MANY_PASSES,
    PATIENCE_SECONDS,
    PATIENT,
    Conversation,
    full,
    serving,
)
from tests.app.api.request_bodies import (
    BATCH_FORMS,
    FORM,
    PREDICTIONS,
    batch_as_json,
    form_bytes,
    small,
)
from tests.app.inference.failing_engine import FailingSample
from tests.conftest import assert_error, connect, sample
from tests.model.engines.torch_reference import sample_probs
from tests.samples.draw import preprocess_image
from training.network import TrainableMLP

# Batches


PICTURES = [f"{digit}.png" for digit in range(10)] + ["doubtful.png", "not_a_digit.png"]


SINGLE_ROUTES = {
    "/predict": "",
    "/predict?return_input=true": "return_input=true",
    "/predict/mc?seed=3": "seed=3",
    "/predict/mc?seed=3&passes=333": "seed=3&passes=333",
    "/predict/mc?seed=4&passes=70&estimator=balanced": "seed=4&passes=70&estimator=balanced",
    "/predict/mc?seed=4&passes=400&max_standard_error=0.02": (
        "seed=4&passes=400&max_standard_error=0.02"
    ),
    "/predict/mc?seed=5&passes=3&return_passes=true": "seed=5&passes=3&return_passes=true",
    "/predict/mc?seed=6&dropout=0.6": "seed=6&dropout=0.6",
}


@pytest.mark.parametrize("form", BATCH_FORMS)
@pytest.mark.parametrize("single", SINGLE_ROUTES)
async def test_each_image_of_a_batch_has_the_bytes_of_its_single_answer_in_order(
    client: httpx.AsyncClient, single: str, form: str
) -> None:
    # Large pictures are decoded in a thread and small ones at once: the order stays.
    pictures = [picture for name in PICTURES for picture in (sample(name), small(name))]
    alone = [(await client.post(single, content=picture)).content for picture in pictures]
    path = single.partition("?")[0]

    together = await client.post(
        f"{path}/batch?{SINGLE_ROUTES[single]}", **BATCH_FORMS[form](pictures)
    )

    assert together.status_code == 200, together.text
    assert together.headers["content-type"] == "application/json"
    assert together.content == b'{"predictions":[' + b",".join(alone) + b"]}"
    assert len(set(alone)) > 10


@pytest.mark.parametrize("form", BATCH_FORMS)
@pytest.mark.parametrize("path", ["/predict", "/predict/mc"])
async def test_one_corrupt_image_among_a_hundred_is_named_and_the_others_are_answered(
    client: httpx.AsyncClient, path: str, form: str
) -> None:
    corrupt = small("7.png")[:-30]
    pictures = [small(PICTURES[number % 10]) for number in range(100)]
    expected = {
        name: (await client.post(f"{path}?seed=1" if "mc" in path else path, content=small(name)))
        for name in PICTURES[:10]
    }
    pictures[41] = corrupt
    alone = await client.post(path, content=corrupt)

    query = "?seed=1" if "mc" in path else ""
    together = await client.post(f"{path}/batch{query}", **BATCH_FORMS[form](pictures))

    assert together.status_code == 200
    predictions = together.json()["predictions"]
    assert len(predictions) == 100
    named = assert_error(alone, 400, "truncated_image")
    del named["request_id"]
    for number, prediction in enumerate(predictions):
        if number == 41:
            assert prediction == {"error": named}
        else:
            assert prediction == expected[PICTURES[number % 10]].json()


@pytest.mark.parametrize("form", BATCH_FORMS)
async def test_a_batch_of_bad_images_only_is_answered(client: httpx.AsyncClient, form: str) -> None:
    for path in ("/predict/batch", "/predict/mc/batch"):
        response = await client.post(path, **BATCH_FORMS[form]([None, None]))

        assert response.status_code == 200
        first, second = response.json()["predictions"]
        assert first.keys() == {"error"}
        assert first == second


async def test_in_an_unseeded_batch_each_image_draws_its_own_seed(
    client: httpx.AsyncClient,
) -> None:
    picture = small("doubtful.png")
    response = await client.post("/predict/mc/batch?passes=5", **batch_as_json([picture] * 40))

    items = response.json()["predictions"]
    assert len({item["seed"] for item in items}) == 40
    for item in items[:5]:
        again = await client.post(f"/predict/mc?passes=5&seed={item['seed']}", content=picture)
        assert again.content in response.content
        assert again.json() == item


@pytest.mark.parametrize("form", BATCH_FORMS)
async def test_the_largest_batch_is_answered(client: httpx.AsyncClient, form: str) -> None:
    response = await client.post(
        "/predict/mc/batch?passes=2&seed=1", **BATCH_FORMS[form]([small("8.png")] * 256)
    )

    assert len(response.json()["predictions"]) == 256
    single = await client.post("/predict/mc?passes=2&seed=1", content=small("8.png"))
    assert response.content.count(single.content) == 256


async def test_a_large_batch_does_not_hold_up_a_small_question(app: FastAPI) -> None:
    body = form_bytes([small("8.png")] * 100)
    async with Conversation(app, "/predict/mc/batch?passes=100", body, FORM) as batch:
        await batch.under_way()
        async with Conversation(app, "/predict/mc?passes=100", small("7.png")) as question:
            await question.ended()

            assert question.status == 200
            assert question.passes < 5_000
        assert not batch.task.done()
        await batch.ended()
        assert batch.status == 200


# Deadlines


@pytest.mark.parametrize("path", ["/predict/mc", "/predict/mc/batch"])
async def test_an_answer_that_is_late_is_a_504_and_its_passes_are_not_computed(
    default_checkpoint: Checkpoint, path: str
) -> None:
    async with serving(default_checkpoint, **PATIENT) as app, connect(app) as client:
        engine = app.state.models.predictor.engine
        before = engine.passes_computed
        request: dict[str, Any] = {"content": small("7.png")}
        if path.endswith("batch"):
            request = batch_as_json([small("7.png")] * 3)

        response = await client.post(f"{path}?passes={MANY_PASSES}&timeout_ms=20", **request)

        assert_error(response, 504, "deadline_exceeded")
        computed = engine.passes_computed
        assert computed - before < MANY_PASSES
        for _ in range(20):
            await asyncio.sleep(0)
        assert engine.passes_computed == computed
        assert app.state.models.predictor.scheduler.queued == 0


async def test_the_servers_own_deadline_holds_where_none_is_given(
    default_checkpoint: Checkpoint,
) -> None:
    async with (
        serving(default_checkpoint, **PATIENT, max_timeout_ms=20) as app,
        connect(app) as client,
    ):
        response = await client.post(f"/predict/mc?passes={MANY_PASSES}", content=small("7.png"))

    assert_error(response, 504, "deadline_exceeded")


# Failures


async def test_an_engine_that_fails_is_an_internal_error_and_the_next_request_is_answered(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor: Predictor = app.state.models.predictor
    expected = await client.post("/predict/mc?seed=1", content=sample("7.png"))
    with monkeypatch.context() as patched:
        patched.setattr(predictor.engine, "sample", FailingSample(predictor, steps=0))
        for path in ("/predict/mc", "/predict/mc/stream"):
            assert_error(await client.post(path, content=sample("7.png")), 500, "internal")

    again = await client.post("/predict/mc?seed=1", content=sample("7.png"))
    assert again.content == expected.content
    assert predictor.scheduler.queued == 0


async def test_an_answer_that_cannot_be_made_is_one_callers_failure(
    app: FastAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_on_ninety(probs: Probs) -> Summary:
        if len(probs) == 90:
            raise MemoryError
        return summarise(probs)

    paths = [f"/predict/mc?seed=1&passes={passes}" for passes in (50, 90, 60)]
    expected = [(await client.post(path, content=small("7.png"))).content for path in paths]
    with monkeypatch.context() as patched:
        patched.setattr("app.inference.answers.summarise", fail_on_ninety)
        answers = await asyncio.gather(
            *(client.post(path, content=small("7.png")) for path in paths)
        )

    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert answers[0].content == expected[0]
    assert answers[2].content == expected[2]
    assert_error(answers[1], 500, "internal")


# Admission


@pytest.mark.parametrize("path", PREDICTIONS)
async def test_what_is_too_much_is_refused_at_once_and_costs_no_pass(
    default_checkpoint: Checkpoint, path: str
) -> None:
    async with serving(default_checkpoint, max_wait_ms=1) as app, connect(app) as client:
        predictor: Predictor = app.state.models.predictor
        computed = predictor.engine.passes_computed
        with full(app):
            queued = predictor.scheduler.queued
            response = await client.post(path, **PREDICTIONS[path])

            error = assert_error(response, 429, "overloaded")
            assert "Retry-After" in error["message"]
            assert response.headers["retry-after"] == "1"
            assert response.headers["retry-after-ms"] == "2"
            assert predictor.scheduler.queued == queued
            assert predictor.engine.passes_computed == computed

        assert (await client.post(path, **PREDICTIONS[path])).status_code == 200
        assert predictor.scheduler.queued == 0


async def test_admission_counts_passes_and_images(default_checkpoint: Checkpoint) -> None:
    # 790 ms, of which a prediction may be wrong by a factor of 2.
    async with serving(default_checkpoint, max_wait_ms=1580) as app, connect(app) as client:
        scheduler = app.state.models.predictor.scheduler
        # Before anything is measured, these take 800 ms; for smaller requests they count less.
        with Charge(scheduler.backlog, 80_000):
            paths = {
                "/predict/mc/batch?passes=1000": batch_as_json([small("7.png")] * 64),
                "/predict/mc/batch?passes=999": batch_as_json([small("7.png")] * 31),
                "/predict/mc?passes=1000": {"content": small("7.png")},
                "/predict/batch": batch_as_json([small("7.png")] * 256),
            }
            statuses = [
                (await client.post(path, **request)).status_code for path, request in paths.items()
            ]
        assert statuses == [429, 200, 200, 200]


async def test_a_request_that_would_wait_longer_than_its_own_timeout_is_refused(
    default_checkpoint: Checkpoint,
) -> None:
    async with serving(default_checkpoint, max_wait_ms=60_000) as app, connect(app) as client:
        scheduler = app.state.models.predictor.scheduler
        with Charge(scheduler.backlog, 1000):  # 10 ms
            url = "/predict/mc?passes=1000&timeout_ms={}"
            response = await client.post(url.format(9), content=small("7.png"))
            assert_error(response, 429, "overloaded")
            response = await client.post(url.format(10_000), content=small("7.png"))
            assert response.status_code == 200


@pytest.mark.parametrize(("requests", "passes"), [(16, 1000), (240, 50)])
async def test_of_many_at_once_none_is_refused_that_waits_less_than_a_second(
    default_checkpoint: Checkpoint, requests: int, passes: int
) -> None:
    async with serving(default_checkpoint) as app, connect(app) as client:
        url = f"/predict/mc?passes={passes}"
        responses = await asyncio.gather(
            *(client.post(url, content=small("7.png")) for _ in range(requests))
        )

        assert app.state.models.predictor.scheduler.queued == 0
    assert {response.status_code for response in responses} == {200}


@pytest.mark.parametrize("count", [1, 2])
async def test_while_large_batches_run_no_small_request_is_refused_or_waits_for_their_end(
    default_checkpoint: Checkpoint, count: int
) -> None:
    async with (
        serving(default_checkpoint, max_wait_ms=60_000, max_timeout_ms=600_000) as app,
        connect(app) as client,
    ):
        request = batch_as_json([small("7.png")] * 256)
        batches = asyncio.gather(
            *(client.post("/predict/mc/batch?passes=250", **request) for _ in range(count))
        )
        predictor: Predictor = app.state.models.predictor
        async with asyncio.timeout(PATIENCE_SECONDS):
            while predictor.engine.passes_computed < 10_000:  # noqa: ASYNC110 - within a round
                await asyncio.sleep(0)
        predictor.scheduler._max_wait_seconds = 0.01  # the batches themselves take longer
        statuses, behind = [], 0
        while not batches.done():
            before = predictor.engine.passes_computed
            for path in ("/predict", "/predict/mc?passes=50"):
                statuses.append((await client.post(path, content=small("7.png"))).status_code)
            behind = max(behind, predictor.engine.passes_computed - before)
        answers = await batches

    assert len(statuses) > 20
    assert set(statuses) == {200}
    assert {answer.status_code for answer in answers} == {200}
    assert behind < 64_000 / 8


# The passes themselves


async def test_passes_that_are_returned_come_from_the_neurons_said_to_be_dropped(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    network = TrainableMLP.from_network(default_checkpoint.network)
    sizes = network.config.hidden_sizes
    with Image.open(BytesIO(sample("doubtful.png"))) as image:
        x = normalise(preprocess_image(np.array(image.convert("L"))), network.config)
    for query in (
        "seed=1&passes=300",
        "seed=2&passes=100&estimator=balanced",
        "seed=3&passes=400&max_standard_error=0.03",
    ):
        response = await client.post(
            f"/predict/mc?{query}&return_passes=true", content=sample("doubtful.png")
        )
        answer = response.json()

        passes = answer["passes"]
        bits = np.array(
            [np.frombuffer(base64.b64decode(row), dtype=np.uint8) for row in answer["dropped"]]
        )
        dropped = np.unpackbits(bits, axis=1)[:, : sum(sizes)].astype(bool)  # (T, hidden units)
        assert dropped.shape == (passes, sum(sizes))
        masks = np.split(~dropped, np.cumsum(sizes)[:-1], axis=1)
        expected = sample_probs(network, x, masks)[:, 0].numpy()
        probs = np.array(answer["pass_probabilities"], dtype=np.float32)
        np.testing.assert_allclose(probs, expected, atol=1e-5)
        # A float32 is printed with the digits that distinguish it from every other one.
        mean = probs.astype(np.float64).mean(axis=0).astype(np.float32)
        assert np.array_equal(mean, np.array(answer["mean"], dtype=np.float32))
        votes = np.bincount(probs.argmax(axis=1), minlength=10)
        assert votes.tolist() == answer["votes"]


async def test_passes_are_returned_only_when_asked_for(client: httpx.AsyncClient) -> None:
    plain = (await client.post("/predict/mc?seed=1", content=sample("7.png"))).json()
    more = await client.post("/predict/mc?seed=1&return_passes=true", content=sample("7.png"))

    assert plain.keys() == more.json().keys() - {"pass_probabilities", "dropped"}
    assert plain.items() <= more.json().items()


# The predictor alone


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def predictor(one_thread: None, default_checkpoint: Checkpoint) -> AsyncIterator[Predictor]:
    made = Predictor(default_checkpoint, Settings())
    yield made
    await made.close(0)


async def test_timings_are_returned_and_have_no_negative_part(predictor: Predictor) -> None:
    _, plain = await predictor.predict(sample("7.png"), PredictParameters())
    _, sampled = await predictor.predict_mc(sample("7.png"), McParameters(passes=500))

    assert plain.queue == 0
    for timings in (plain, sampled):
        assert min(timings) >= 0
        assert timings.decode > 0
        assert timings.compute > 0


async def test_what_was_wrong_with_an_image_of_a_batch_stays_in_its_place(
    predictor: Predictor,
) -> None:
    wrong = ApiError(ErrorCode.INVALID_PIXELS, "as it was found")
    for parameters in (PredictParameters(), McParameters(passes=2)):
        answers, _ = await predictor.predict_batch([small("7.png"), wrong, b"x"], parameters)

        first, second, third = answers
        assert isinstance(first, Prediction)
        assert first.digit == 7
        assert second is wrong
        assert is_error(third, ErrorCode.NOT_AN_IMAGE)


async def test_a_defect_of_one_image_of_a_deterministic_batch_is_that_images_error(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compute = predictor.engine.predict_logits
    calls = 0

    def fail_second(pixels: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("a defect")
        return compute(pixels)

    monkeypatch.setattr(predictor.engine, "predict_logits", fail_second)
    answers, _ = await predictor.predict_batch([small("7.png")] * 3, PredictParameters())

    assert is_error(answers[1], ErrorCode.INTERNAL)
    assert [isinstance(answer, Prediction) for answer in answers] == [True, False, True]
    assert "a defect" in caplog.text
    assert predictor.scheduler.queued == 0


async def test_after_closing_nothing_is_admitted(default_checkpoint: Checkpoint) -> None:
    closed = Predictor(default_checkpoint, Settings())
    await closed.close(0)

    with raises_error(ErrorCode.NOT_READY):
        closed.check(PredictParameters)
    with raises_error(ErrorCode.NOT_READY):
        await closed.predict_mc(small("7.png"), McParameters())
