"""Spans of the requests of sampled traces, sent to an OpenTelemetry collector (OTLP over HTTP).

OpenTelemetry's SDK comes with the extra `otel`, and is imported only where spans are exported.
"""

import importlib.util
import threading
import time
from typing import TYPE_CHECKING, Any

from app.settings import Settings, SettingsError
from app.telemetry.request_record import RequestRecord
from app.telemetry.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

# For what is not sent yet when the server ends.
_CLOSING_SECONDS = 1.0


def check_spans(settings: Settings) -> None:
    """Refuses an address for spans where they cannot be made.

    Raises:
        SettingsError: the extra is missing.
    """
    if settings.otlp_endpoint is not None and not importlib.util.find_spec("opentelemetry.sdk"):
        raise SettingsError("DROPSERVE_OTLP_ENDPOINT needs the extra: pip install dropserve[otel]")


class Spans:
    """Makes a server span of each request, whose children are the stages of a prediction.

    A request's times are known when it has ended; its spans are made then, in one go.

    Args:
        exporter: takes the spans, in a thread of its own.
    """

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say has precedence.
        resource = Resource.create().merge(Resource({SERVICE_NAME: "dropserve"}))
        resource = resource.merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("dropserve")

    @classmethod
    def of(cls, settings: Settings) -> "Spans | None":
        """Those that the settings ask for; None: there are no spans.

        Raises:
            SettingsError: see `check_spans`.
        """
        if settings.otlp_endpoint is None:
            return None
        check_spans(settings)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return cls(OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces"))

    def record(self, request: RequestRecord, trace: TraceContext) -> None:
        """Makes the spans of a request that has just ended."""
        from opentelemetry.trace import (
            NonRecordingSpan,
            SpanContext,
            SpanKind,
            Status,
            StatusCode,
            TraceFlags,
            set_span_in_context,
        )

        flags = TraceFlags(TraceFlags.SAMPLED)
        caller = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), True, flags)
        end = time.time_ns()
        start = end - _as_integer(request.seconds)
        attributes: dict[str, Any] = {
            "http.request.method": request.method,
            "http.route": request.route,
            "http.response.status_code": request.status,
            "dropserve.request_id": request.request_id,
        }
        if request.code is not None:
            attributes["error.type"] = request.code
        if request.model is not None:
            attributes["dropserve.model"] = request.model
        span = self._tracer.start_span(
            f"{request.method} {request.route}",
            set_span_in_context(NonRecordingSpan(caller)),
            SpanKind.SERVER,
            attributes,
            start_time=start,
        )
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if request.timings.compute:
            # One after the other up to the answer; before them the body is received.
            begun = max(start, end - _as_integer(sum(request.timings)))
            for stage, seconds in request.timings._asdict().items():
                context = set_span_in_context(span)
                child = self._tracer.start_span(stage, context, start_time=begun)
                begun = min(end, begun + _as_integer(seconds))
                child.end(begun)
        span.end(end)

    def close(self) -> None:
        """Sends what is left, for at most a second: the collector may be gone."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSING_SECONDS)


def _as_integer(seconds: float) -> int:
    return round(seconds * 1e9)
