"""Builds the application; nothing runs at import."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app.api import feedback, health, pages, predictions, v2
from app.api.auth import ApiKeyMiddleware, ApiKeys
from app.api.documentation import document_network
from app.api.fast_path import DirectApp
from app.api.feedback_tokens import HEADER as FEEDBACK_HEADER
from app.api.middleware import CorsMiddleware
from app.api.openapi import describe_application
from app.api.routes import OPEN_ROUTES, ROUTE_LABELS
from app.inference.catalogue import Catalogue
from app.inference.repository import Loaded, ModelRepository
from app.settings import Settings
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from app.telemetry.spans import Spans
from model.checkpoint import AnyCheckpoint

_DESCRIPTION = "Which handwritten digit is this, and how sure is the network? MC dropout over HTTP."
_CORS_METHODS = ("GET", "POST")
_CORS_SENT = (
    *("authorization", "content-type", "inference-header-content-length"),
    *("traceparent", "tracestate", "x-request-id"),
)
_CORS_READ = (
    *("inference-header-content-length", "retry-after", "retry-after-ms", "x-request-id"),
    FEEDBACK_HEADER,
)


def create_app(
    settings: Settings,
    checkpoint: AnyCheckpoint | None = None,
    *,
    loaded: Loaded | None = None,
    find: Callable[[], Catalogue] | None = None,
    metrics: Metrics | None = None,
    access_log: AccessLog | None = None,
    spans: Spans | None = None,
    used_tokens: Path | None = None,
) -> FastAPI:
    """The application.

    Its `state` has `settings`, `models` (the model repository), `change_model` (loads or unloads a
    model here, or in all workers if the server replaces it), `metrics` and `feedback` (None: off),
    `is_draining` (set by the server), `unread_body_bytes` and `parsing` (see `app.api.receiving`).

    Args:
        settings: how the application runs.
        checkpoint: the one network to serve; without it the settings' are loaded at start-up.
        loaded: those of them that are read already.
        find: names what is served; None: the settings do.
        metrics: counts the requests; without it the application makes its own, if settings allow.
        access_log: writes a line for each request; None: there are no lines.
        spans: exports the requests of sampled traces; without it the application makes its own, if
            settings name a collector.
        used_tokens: a file in which several workers note the feedback tokens that were used; None:
            there is only this process.

    Raises:
        SettingsError: the API keys cannot be read, or spans cannot be made.
        CheckpointError: at start-up, if the checkpoint cannot be served.
    """
    if metrics is None and settings.metrics:
        metrics = Metrics(ROUTE_LABELS)

    spans = spans or Spans.of(settings)
    counter = feedback.FeedbackCounter.of(settings, metrics, used_tokens)
    models = ModelRepository(settings, metrics, find)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models.load(checkpoint, loaded)
        try:
            yield
        finally:
            await models.close()
            if spans is not None:
                spans.close()
            if counter is not None:
                counter.close()

    app = DirectApp(
        metrics=metrics,
        access_log=access_log,
        spans=spans,
        title="Dropserve",
        description=_DESCRIPTION,
        version=version("dropserve"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.models = models
    app.state.change_model = models.change_model
    app.state.feedback = counter
    app.state.is_draining = False
    app.state.unread_body_bytes = 0
    app.state.parsing = asyncio.Lock()
    # Not included, but joined: an included router is searched by a slower path of its own.
    app.router.routes.extend(v2.infer_routes)
    app.router.routes.append(v2.mount)
    app.router.routes.extend(predictions.router.routes)
    app.router.routes.append(v2.root_route)
    app.include_router(feedback.router)
    app.include_router(health.router)
    app.include_router(pages.router)
    open_routes = OPEN_ROUTES if settings.metrics_need_key else OPEN_ROUTES | {"/metrics"}

    def document(paths: dict[str, Any]) -> None:
        if models.is_ready:
            document_network(paths, models.predictor, settings)

    describe_application(app, settings, open_routes, document)
    # The last one is the outermost: a browser's preflight has no key.
    if settings.api_keys_file is not None or settings.admin_keys_file is not None:
        keys, admin_keys = (
            None if path is None else ApiKeys(path)
            for path in (settings.api_keys_file, settings.admin_keys_file)
        )
        app.add_middleware(
            ApiKeyMiddleware, keys=keys, open_routes=open_routes, admin_keys=admin_keys
        )
    if settings.cors_origins:
        app.add_middleware(
            CorsMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=_CORS_METHODS,
            allow_headers=_CORS_SENT,
            expose_headers=_CORS_READ,
        )
    return app
