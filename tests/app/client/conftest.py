"""A client of the real application, pictures, and answers as a server sends them."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio
from fastapi import FastAPI

from app.client import AsyncDropserveClient
from tests.conftest import sample

PICTURE = sample("7.png")

ANSWER: dict[str, Any] = {
    "digit": 4,
    "label": "4",
    "confidence": 0.5,
    "probabilities": [0.5, 0.5],
    "predictive_entropy": 0.7,
    "decision": None,
    "model": {"name": "mnist", "version": "0", "colour": "blue"},
}
MC_ANSWER: dict[str, Any] = {
    **ANSWER,
    "mean": [0.5, 0.5],
    "variance": None,
    "standard_error": None,
    "expected_entropy": 0.6,
    "mutual_information": 0.1,
    "votes": [1, 0],
    "passes": 1,
    "stop_reason": "passes",
    "seed": 1,
    "estimator": "independent",
}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def asking(app: FastAPI) -> AsyncIterator[AsyncDropserveClient]:
    async with client_of(app) as connected:
        yield connected


def client_of(app: FastAPI, **options: Any) -> AsyncDropserveClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return AsyncDropserveClient("http://dropserve", transport=transport, **options)
