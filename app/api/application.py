"""Builds the application; nothing runs at import."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.api import health, pages, predictions, v2
from app.api.answers import error_response
from app.api.api_keys import ApiKeys
from app.api.auth import OPEN_PATHS, AccessMiddleware
from app.api.cors import CorsMiddleware
from app.api.fast_path import DirectApp
from app.api.middleware import RequestContextMiddleware
from app.api.openapi import describe_application
from app.errors import ApiError, ErrorCode
from app.inference.repository import ModelRepository
from app.settings import Settings
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from model.checkpoint import Checkpoint

_DESCRIPTION = "Which handwritten digit is this, and how sure is the network? MC dropout over HTTP."

logger = logging.getLogger("dropserve")


def create_app(
    settings: Settings,
    checkpoint: Checkpoint | None = None,
    *,
    metrics: Metrics | None = None,
    access_log: AccessLog | None = None,
) -> FastAPI:
    """The application.

    Args:
        settings: how it runs.
        checkpoint: what it serves; loaded as the settings say when the app starts, if not given.
        metrics: what it counts in, if others count too.
        access_log: writes a line for each request; None: nobody does.

    Raises:
        SettingsError: the API keys cannot be read.
        CheckpointError: at start-up, where the checkpoint cannot be served.
    """
    if metrics is None and settings.metrics:
        metrics = Metrics()

    models = ModelRepository(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        models.load(checkpoint)
        try:
            yield
        finally:
            await models.close()

    app = DirectApp(
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
    app.state.is_draining = False
    app.state.unread_body_bytes = 0
    # Not included, but joined: an included router is searched by a slower path of its own.
    app.router.routes.extend(v2.infer_routes)
    app.router.routes.append(v2.mount)
    app.router.routes.extend(predictions.router.routes)
    app.router.routes.append(v2.root_route)
    app.include_router(health.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=health.STATIC_DIR), name="static")
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    describe_application(app, settings, OPEN_PATHS)
    # The last is the outermost: a page's preflight has no key, and every answer has its headers.
    if settings.api_keys_file is not None:
        app.add_middleware(
            AccessMiddleware,
            keys=ApiKeys(settings.api_keys_file),
            open_paths=OPEN_PATHS if settings.metrics_need_key else OPEN_PATHS | {"/metrics"},
        )
    if settings.cors_origins:
        app.add_middleware(CorsMiddleware, origins=settings.cors_origins)
    app.add_middleware(RequestContextMiddleware, metrics=metrics, access_log=access_log)
    return app


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request, error)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """What the framework itself refuses, in our shape."""
    assert isinstance(error, HTTPException)
    translated: ApiError
    if error.status_code == 404:
        translated = ApiError(ErrorCode.NOT_FOUND)
    elif error.status_code == 405:
        headers = dict(error.headers or {})
        if request.method == "PUT":
            translated = ApiError(
                ErrorCode.METHOD_NOT_ALLOWED,
                "PUT is not taken; curl -T sends PUT, so use --data-binary @FILE instead",
                headers=headers,
            )
        else:
            translated = ApiError(ErrorCode.METHOD_NOT_ALLOWED, headers=headers)
    elif error.status_code == 503:
        translated = ApiError(ErrorCode.NOT_READY)
    elif error.status_code < 500:
        translated = ApiError(ErrorCode.INVALID_PARAMETER)
    else:
        translated = ApiError(ErrorCode.INTERNAL)
    return error_response(request, translated)
