"""What operators ask for."""

import json

import httpx
import pytest

from app.api.application import create_app
from app.settings import Settings
from model.checkpoint import Checkpoint
from model.uncertainty.calibration import with_missing
from tests.conftest import assert_error, connect


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v2/health/live", "/model"])
async def test_head_is_answered_as_get(client: httpx.AsyncClient, path: str) -> None:
    got = await client.get(path)
    headed = await client.head(path)

    assert (headed.status_code, headed.content) == (got.status_code, b"") == (200, b"")
    assert headed.headers["content-length"] == str(len(got.content))


async def test_a_server_that_drains_is_alive_and_not_ready(default_checkpoint: Checkpoint) -> None:
    app = create_app(Settings(), default_checkpoint)
    app.state.is_draining = True
    async with app.router.lifespan_context(app), connect(app) as client:
        assert (await client.get("/health/live")).json() == {"status": "live"}
        assert_error(await client.get("/health/ready"), 503, "not_ready")


async def test_metrics_that_are_off_are_not_found(default_checkpoint: Checkpoint) -> None:
    async with connect(create_app(Settings(metrics=False), default_checkpoint)) as client:
        error = assert_error(await client.get("/metrics"), 404, "not_found")
    assert "DROPSERVE_METRICS" in error["message"]


async def test_the_server_says_what_it_serves(
    client: httpx.AsyncClient, default_checkpoint: Checkpoint
) -> None:
    card = (await client.get("/model")).json()

    identity = {key: card.pop(key) for key in ("name", "version")}
    assert identity == {"name": "mnist", "version": default_checkpoint.version}
    expected = default_checkpoint.card()
    expected["calibration"] = with_missing(expected["calibration"])
    assert card == json.loads(json.dumps(expected))
    assert card["config"]["layer_sizes"] == [784, 512, 256, 128, 10]
