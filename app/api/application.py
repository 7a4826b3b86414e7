"""Builds the application; nothing runs at import."""

import asyncio
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
from app.api.routes import ROUTE_LABELS
from app.errors import ApiError, ErrorCode
from app.inference.pipeline import Inference
from app.open_inference.models import served_models
from app.settings import Settings
from app.telemetry.logs import AccessLog
from app.telemetry.metrics import Metrics
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.errors import CheckpointError, ModelError
from model.literals import SIDE

_DESCRIPTION = "Which handwritten digit is this, and how sure is the network? MC dropout over HTTP."
# For what is still computed when the connections are gone.
_CLOSING_SECONDS = 1.0

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
        metrics = Metrics(ROUTE_LABELS)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _go_over(app, _warm(checkpoint or load_served_checkpoint(settings), settings, metrics))
        app.state.reloading = asyncio.Lock()
        app.state.is_ready = True
        try:
            yield
        finally:
            app.state.is_ready = False
            await app.state.inference.close(_CLOSING_SECONDS)

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
    app.state.is_ready = False
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


def load_served_checkpoint(settings: Settings) -> Checkpoint:
    """The checkpoint that the settings name, or the committed one.

    Raises:
        CheckpointError: it cannot be read, or its network takes other images than are served.
    """
    path = settings.checkpoint or DEFAULT_CHECKPOINT
    checkpoint = load_checkpoint(path)
    shape = checkpoint.network.config.input_shape
    if shape != (SIDE, SIDE):
        raise CheckpointError(
            f"the checkpoint {path} is for images of shape {shape}; only {SIDE}x{SIDE} is served"
        )
    return checkpoint


async def reload_checkpoint(app: FastAPI) -> None:
    """Goes over to the checkpoint as its file is now, once that is checked and warm.

    Requests that have begun keep the network they began with, so none fails. A file that cannot be
    served changes nothing, and the log says why.
    """
    async with app.state.reloading:  # one after the other: the last one asked for stays
        settings: Settings = app.state.settings
        try:
            inference = await asyncio.to_thread(
                lambda: _warm(load_served_checkpoint(settings), settings, app.state.metrics)
            )
        except ModelError as error:
            logger.error("the checkpoint is not reloaded, the one before serves on: %s", error)
            return
        old: Inference = app.state.inference
        _go_over(app, inference)
        checkpoint = inference.checkpoint
        logger.info("reloaded: %s %s", checkpoint.name, checkpoint.version)
    # Nobody is answered later than this.
    await asyncio.sleep(settings.max_timeout_ms / 1000)
    await old.close(_CLOSING_SECONDS)


def _warm(checkpoint: Checkpoint, settings: Settings, metrics: Metrics | None) -> Inference:
    inference = Inference(checkpoint, settings, metrics)
    inference.warm_up()
    return inference


def _go_over(app: FastAPI, inference: Inference) -> None:
    app.state.inference = inference
    settings: Settings = app.state.settings
    checkpoint = inference.checkpoint
    app.state.models = served_models(checkpoint, settings)
    metrics: Metrics | None = app.state.metrics
    if metrics is not None:
        metrics.serve_model(checkpoint.name, checkpoint.version, settings.max_queued_passes)


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
