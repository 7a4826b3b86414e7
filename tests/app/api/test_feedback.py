"""`POST /feedback`: what is counted, what is refused, and which answers carry tokens."""

import signal
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.api.application import create_app
from app.client import AsyncDropserveClient, DropserveClient
from app.client.errors import RequestError
from app.settings import Settings
from model.checkpoint import Checkpoint
from tests.app.telemetry.prometheus_text import Scrape
from tests.conftest import ServerStarter, assert_error, connect, sample

SECRET = "a secret of the tests"
PICTURE = sample("7.png")


@pytest_asyncio.fixture(loop_scope="session")
async def asking(default_checkpoint: Checkpoint) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Settings.model_validate({"feedback_secret": SECRET}), default_checkpoint)
    async with app.router.lifespan_context(app), connect(app) as connected:
        yield connected


async def counted(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """By model, decision, true class and whether the answer had it."""
    scrape = Scrape.of(await client.get("/metrics"))
    return {
        tuple(dict(labels)[name] for name in ("model", "decision", "class_index", "correct")): value
        for (name, labels), value in scrape.samples.items()
        if name == "dropserve_feedback_total"
    }


async def token_of(client: httpx.AsyncClient, path: str = "/predict") -> str:
    response = await client.post(path, content=PICTURE)
    token: str = response.headers["x-feedback-token"]
    assert token not in response.text
    return token


async def test_feedback_counts_by_decision_and_true_class(asking: httpx.AsyncClient) -> None:
    labels = [("/predict", 7), ("/predict/mc?seed=1", "7"), ("/predict", 1)]
    study = ("/predict/mc?dropout=0.5&seed=1", 7)
    answers = []
    for path, label in [*labels, study]:
        body = {"token": await token_of(asking, path), "label": label}
        answers.append((await asking.post("/feedback", json=body)).json())

    assert answers == [{"correct": True}, {"correct": True}, {"correct": False}, {"correct": True}]
    assert await counted(asking) == {
        ("mnist", "accept", "7", "true"): 2,
        ("mnist", "accept", "1", "false"): 1,
        ("mnist", "none", "7", "true"): 1,
    }


async def test_the_body_does_not_depend_on_the_token(
    asking: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    with_token = await asking.post("/predict/mc?seed=1", content=PICTURE)
    without = await client.post("/predict/mc?seed=1", content=PICTURE)

    assert "x-feedback-token" not in without.headers
    assert with_token.content == without.content


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"token": "TOKEN", "label": 10}, 422, "invalid_parameter", "label"),
        ({"token": "TOKEN", "label": -1}, 422, "invalid_parameter", "label"),
        ({"token": "TOKEN", "label": True}, 422, "invalid_parameter", "label"),
        ({"token": "TOKEN", "label": 7.0}, 422, "invalid_parameter", "label"),
        ({"token": "TOKEN", "label": "seven"}, 422, "invalid_parameter", "label"),
        ({"token": "TOKEN"}, 422, "invalid_parameter", "label"),
        ({"label": 7}, 422, "invalid_parameter", "token"),
        ({"token": 7, "label": 7}, 422, "invalid_parameter", "token"),
        ({"token": "made up", "label": 7}, 422, "invalid_token", "token"),
        ({"token": "TOKEN", "label": 7, "more": 1}, 422, "unknown_parameter", "token"),
        ([1], 400, "invalid_json", None),
    ],
)
async def test_what_cannot_be_counted_is_refused_and_uses_no_token(
    asking: httpx.AsyncClient, body: Any, status: int, code: str, param: str | None
) -> None:
    token = await token_of(asking)
    if isinstance(body, dict) and body.get("token") == "TOKEN":
        body = {**body, "token": token}
    before = await counted(asking)

    response = await asking.post("/feedback", json=body)

    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert await counted(asking) == before
    again = await asking.post("/feedback", json={"token": token, "label": 7})
    assert again.json() == {"correct": True}


async def test_a_long_or_broken_body_is_refused(asking: httpx.AsyncClient) -> None:
    assert_error(await asking.post("/feedback", content=b"x" * 5000), 413, "body_too_large")
    assert_error(await asking.post("/feedback", content=b"{"), 400, "invalid_json")


async def test_without_a_secret_there_is_no_feedback(client: httpx.AsyncClient) -> None:
    answer = await client.post("/feedback", json={"token": "x", "label": 1})
    error = assert_error(answer, 404, "not_found")
    assert "DROPSERVE_FEEDBACK_SECRET" in error["message"]


async def test_the_client_sends_feedback(
    asking: httpx.AsyncClient, client: httpx.AsyncClient
) -> None:
    async with AsyncDropserveClient("http://dropserve", transport=asking._transport) as ours:
        answer = await ours.predict(PICTURE)
        assert await ours.feedback(answer, label=7) is True
        with pytest.raises(RequestError) as raised:
            await ours.feedback(answer, label=7)
        assert raised.value.code == "used_token"
        assert await ours.feedback(await ours.predict_mc(PICTURE), label="3") is False
        (of_several, _) = await ours.predict_batch([PICTURE, PICTURE])
        with pytest.raises(ValueError, match="DROPSERVE_FEEDBACK_SECRET"):
            await ours.feedback(of_several, label=7)  # type: ignore[arg-type]


@pytest.mark.slow
def test_feedback_counts_with_two_workers_and_only_once(servers: ServerStarter) -> None:
    server = servers.start("--workers", "2", environ={"DROPSERVE_FEEDBACK_SECRET": SECRET})
    sent = 8
    # A connection for each request, so that both workers have some.
    with DropserveClient(server.address, headers={"connection": "close"}) as ours:
        for number in range(sent):
            answer = ours.predict(PICTURE)
            assert ours.feedback(answer, label=7 if number % 4 else 1) is bool(number % 4)
            for _ in range(3):
                with pytest.raises(RequestError) as raised:
                    ours.feedback(answer, label=7)
                assert raised.value.code == "used_token"
    seen = Scrape.of(httpx.get(f"{server.address}/metrics"))
    labels = {"model": "mnist", "decision": "accept"}
    assert seen.by("correct", "feedback_total", **labels, class_index="7") == {"true": 6}
    assert seen.by("correct", "feedback_total", **labels, class_index="1") == {"false": 2}
    server.stop(signal.SIGTERM, within_seconds=30)
