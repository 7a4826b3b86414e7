"""Spans: a parent and three children for each prediction of a sampled trace."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.api.application import create_app
from app.settings import Settings, SettingsError
from app.telemetry.spans import Spans, check_spans
from model.checkpoint import Checkpoint
from tests.conftest import ROOT, connect, sample

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def traceparent(flags: str) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}", "x-request-id": "my-own"}


async def test_a_sampled_prediction_is_a_span_with_three_children(
    default_checkpoint: Checkpoint,
) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    app = create_app(Settings(), default_checkpoint, spans=Spans(exporter))
    async with app.router.lifespan_context(app), connect(app) as client:
        for flags in ("01", "00"):
            await client.post("/predict/mc", content=sample("7.png"), headers=traceparent(flags))
        await client.post("/predict", content=sample("7.png"))
        await client.post("/predict?what=1", content=b"-", headers=traceparent("01"))
    decode, queue, compute, parent, refused = exporter.get_finished_spans()

    assert [decode.name, queue.name, compute.name] == ["decode", "queue", "compute"]
    assert parent.name == "POST /predict/mc"
    assert f"{parent.context.trace_id:032x}" == TRACE
    assert parent.parent is not None
    assert f"{parent.parent.span_id:016x}" == PARENT
    assert dict(parent.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/predict/mc",
        "http.response.status_code": 200,
        "dropserve.model": "mnist",
        "dropserve.request_id": "my-own",
    }
    for child in (decode, queue, compute):
        assert child.parent is not None
        assert child.parent.span_id == parent.context.span_id
        assert child.context.trace_id == parent.context.trace_id
    times = [parent.start_time]
    for child in (decode, queue, compute):
        times += [child.start_time, child.end_time]
    times.append(parent.end_time)
    assert times == sorted(time for time in times if time is not None)
    assert compute.end_time > compute.start_time  # type: ignore[operator]
    assert (refused.attributes or {})["error.type"] == "unknown_parameter"
    assert parent.resource.attributes["service.name"] == "dropserve"


def test_nothing_of_it_is_imported_without_an_address(tmp_path: Path) -> None:
    script = (
        "import sys; from app.api.application import create_app; from app.settings import Settings;"
        "create_app(Settings()); assert 'opentelemetry.sdk' not in sys.modules;"
        "create_app(Settings(otlp_endpoint='http://127.0.0.1:1'));"
        "assert 'opentelemetry.sdk' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_an_address_without_the_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(otlp_endpoint="http://127.0.0.1:4318")
    check_spans(settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="dropserve\\[otel\\]"):
        check_spans(settings)
