"""A job: which passes it takes, when it stops, and the seed that it draws."""

import random
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from numpy.typing import NDArray

from app.api.application import create_app
from app.inference.jobs import Job
from app.schemas import McParameters
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.digits.preprocessing import Preprocessed
from model.sampling.adaptive import CHECK_PASSES
from tests.app.api.conversation import Conversation
from tests.app.api.request_bodies import small
from tests.conftest import connect, sample
from tests.model.sampling.test_adaptive import largest_error

# Seeds


async def ask(client: httpx.AsyncClient, path: str, content: bytes) -> dict[str, Any]:
    response = await client.post(path, content=content)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


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


# Stopping early


@pytest.mark.parametrize("target", [0.05, 0.02, 0.012])
async def test_an_adaptive_answer_is_the_shortest_that_meets_the_target(
    client: httpx.AsyncClient, target: float
) -> None:
    picture = sample("doubtful.png")
    whole = await client.post("/predict/mc?seed=6&passes=1000&return_passes=true", content=picture)
    probs: NDArray[np.float32] = np.array(whole.json()["pass_probabilities"], dtype=np.float32)
    enough = next(passes for passes in range(32, 1001) if largest_error(probs[:passes]) <= target)

    adaptive = await client.post(
        f"/predict/mc?seed=6&passes=1000&max_standard_error={target}", content=picture
    )
    fixed = await client.post(f"/predict/mc?seed=6&passes={enough}", content=picture)

    assert adaptive.json()["passes"] == enough < 1000
    assert adaptive.json()["stop_reason"] == "standard_error"
    assert max(adaptive.json()["standard_error"]) <= target
    assert adaptive.json() == fixed.json() | {"stop_reason": "standard_error"}


async def test_an_adaptive_answer_stops_the_passes_that_it_does_not_need(app: FastAPI) -> None:
    async with Conversation(
        app, "/predict/mc?passes=1000&max_standard_error=0.5", small("7.png")
    ) as request:
        await request.ended()

        assert (request.status, request.passes) == (200, 32)


async def test_a_target_that_is_not_met_takes_all_passes(client: httpx.AsyncClient) -> None:
    response = await client.post(
        "/predict/mc?seed=1&passes=100&max_standard_error=1e-9", content=sample("doubtful.png")
    )
    plain = await client.post("/predict/mc?seed=1&passes=100", content=sample("doubtful.png"))

    assert response.json()["stop_reason"] == "passes"
    assert response.content == plain.content


# The job alone


def job(*, is_streamed: bool = False, **parameters: Any) -> Job:
    image = Preprocessed(np.zeros((28, 28), dtype=np.uint8))
    return Job(image, McParameters(**{"seed": 1, **parameters}), is_streamed=is_streamed)


def passes_of(count: int, *, spread: float = 0.0) -> NDArray[np.float32]:
    """Probabilities of two classes, which alternate by `spread` from pass to pass."""
    first = 0.5 + spread * (np.arange(count) % 2 - 0.5)
    return np.stack([first, 1 - first], axis=1).astype(np.float32)


def test_a_job_is_finished_when_its_last_pass_is_there() -> None:
    one = job(passes=50)
    one.advance(passes_of(20))
    assert (one.remaining, one.is_finished, one.stop_reason) == (30, False, None)

    one.advance(passes_of(30))
    assert (one.remaining, one.is_finished, one.stop_reason) == (0, True, "passes")
    assert one.probs is not None
    assert one.probs.shape == (50, 2)


def test_a_job_stops_at_the_first_number_of_passes_whose_standard_error_is_small_enough() -> None:
    probs = passes_of(100, spread=0.2)
    enough = next(count for count in range(32, 101) if largest_error(probs[:count]) <= 0.014)
    assert 32 < enough < 64

    one = job(passes=1000, max_standard_error=0.014)
    one.advance(probs[:32])
    assert not one.is_finished
    one.advance(probs[32:64])

    assert one.stop_reason == "standard_error"
    assert one.probs is not None
    assert len(one.probs) == enough
    assert one.remaining == 1000 - 64  # what was computed stays computed


def test_a_target_that_the_last_pass_does_not_meet_ends_with_all_passes() -> None:
    one = job(passes=40, max_standard_error=1e-9)
    one.advance(passes_of(40, spread=0.2))

    assert one.stop_reason == "passes"


@pytest.mark.parametrize(
    ("passes", "options", "first"),
    [
        (1000, {}, 1000),
        (1000, {"is_streamed": True}, 100),
        (7, {"is_streamed": True}, 4),
        (1001, {"is_streamed": True}, 101),
        (1000, {"max_standard_error": 0.01}, CHECK_PASSES),
        (1000, {"max_standard_error": 0.01, "is_streamed": True}, CHECK_PASSES),
        (100, {"max_standard_error": 0.01, "is_streamed": True}, 10),
    ],
)
def test_a_step_ends_where_a_partial_result_or_a_check_is_due(
    passes: int, options: dict[str, Any], first: int
) -> None:
    one = job(passes=passes, **options)
    stops = list(range(first, passes, first))
    for stop in stops:
        assert one.next_stop == stop
        one.advance(passes_of(1, spread=1.0))
        # A step may end before: its time is limited, too.
        assert (one.next_stop, one.has_partial_result) == (stop, False)
        one.advance(passes_of(stop - one.done, spread=1.0))
        assert one.has_partial_result == options.get("is_streamed", False)

    assert one.next_stop == passes


def test_balanced_and_returned_passes_need_their_masks() -> None:
    assert not job().needs_masks
    assert job(estimator="balanced").needs_masks
    assert job(return_passes=True).needs_masks
