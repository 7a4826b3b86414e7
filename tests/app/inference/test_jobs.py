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
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.uncertainty.statistics import standard_error
from tests.app.api.conversation import (
    Conversation,
)
from tests.app.api.request_bodies import (
    small,
)
from tests.conftest import connect, sample

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
    enough = next(
        passes for passes in range(32, 1001) if standard_error(probs[:passes]).max() <= target
    )

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
