"""The header `traceparent`: which values are valid, and where its trace id stands."""

import json

import pytest

from app.api.application import create_app
from app.settings import Settings
from app.telemetry.logs import AccessLog
from app.telemetry.trace_context import TraceContext, parse_traceparent
from model.checkpoint import Checkpoint
from tests.app.telemetry.pipes import Pipe
from tests.conftest import connect, sample

# The example of the recommendation.
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "is_sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"00-{TRACE}-{PARENT}-fe", False),
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_valid_header_names_a_trace(value: str, is_sampled: bool) -> None:
    assert parse_traceparent(value.encode()) == TraceContext(TRACE, PARENT, is_sampled)


@pytest.mark.parametrize(
    "value",
    [
        "",
        TRACE,
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE}-{PARENT}-01\n",
        f"00_{TRACE}_{PARENT}_01",
    ],
)
def test_any_other_header_is_none(value: str) -> None:
    assert parse_traceparent(value.encode()) is None


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_the_trace_id_stands_in_the_log_and_in_errors_and_in_no_answer(
    default_checkpoint: Checkpoint, log_format: str
) -> None:
    pipe = Pipe()
    log = AccessLog(pipe.writer, log_format)  # type: ignore[arg-type]
    app = create_app(Settings(), default_checkpoint, access_log=log)
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    async with app.router.lifespan_context(app), connect(app) as client:
        answer = await client.post("/predict", content=sample("7.png"), headers=headers)
        plain = await client.post("/predict", content=sample("7.png"))
        refusal = await client.post("/predict?what=1", content=b"-", headers=headers)
        stranger = await client.post(
            "/predict?what=1", content=b"-", headers={"traceparent": "secret"}
        )
    of_answer, of_plain, of_refusal, of_stranger = pipe.read().splitlines()

    assert answer.content == plain.content
    assert refusal.json()["error"]["trace_id"] == TRACE
    assert "trace_id" not in stranger.json()["error"]
    assert TRACE in of_answer
    assert TRACE in of_refusal
    assert "trace" not in of_plain
    assert "secret" not in of_stranger
    if log_format == "json":
        assert json.loads(of_answer)["trace_id"] == TRACE
