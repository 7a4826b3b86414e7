"""Builds the application; nothing runs at import."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.direct_route import DirectApp
from app.errors import (
    ApiError,
    InternalError,
    InvalidParameterError,
    MethodNotAllowedError,
    NotFoundError,
    NotReadyError,
)
from app.inference import Inference
from app.middleware import RequestContextMiddleware
from app.open_inference.models import served_models
from app.responses import error_response
from app.routes import open_inference, operations, playground, predictions
from app.settings import Settings
from model.checkpoint import DEFAULT_CHECKPOINT, Checkpoint, load_checkpoint
from model.errors import CheckpointError
from model.preprocessing import SIDE

_DESCRIPTION = "Which handwritten digit is this, and how sure is the network? MC dropout over HTTP."


def create_app(settings: Settings, checkpoint: Checkpoint | None = None) -> FastAPI:
    """The application.

    Args:
        settings: how it runs.
        checkpoint: what it serves; loaded as the settings say when the app starts, if not given.

    Raises:
        CheckpointError: at start-up, where the checkpoint cannot be served.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        inference = Inference(checkpoint or load_served_checkpoint(settings), settings)
        inference.warm_up()
        app.state.inference = inference
        app.state.models = served_models(inference.checkpoint, settings)
        app.state.is_ready = True
        try:
            yield
        finally:
            app.state.is_ready = False
            await inference.close(settings.drain_seconds)

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
    app.state.is_ready = False
    # Not included, but joined: an included router is searched by a slower path of its own.
    app.router.routes.append(open_inference.mount)
    app.router.routes.extend(predictions.router.routes)
    app.router.routes.append(open_inference.root_route)
    app.include_router(operations.router)
    app.include_router(playground.router)
    app.mount("/static", StaticFiles(directory=operations.STATIC_DIR), name="static")
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_middleware(RequestContextMiddleware)
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


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(request, error)


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """What the framework itself refuses, in our shape."""
    assert isinstance(error, HTTPException)
    translated: ApiError
    if error.status_code == 404:
        translated = NotFoundError()
    elif error.status_code == 405:
        headers = dict(error.headers or {})
        if request.method == "PUT":
            translated = MethodNotAllowedError(
                "PUT is not taken; curl -T sends PUT, so use --data-binary @FILE instead",
                headers=headers,
            )
        else:
            translated = MethodNotAllowedError(headers=headers)
    elif error.status_code == 503:
        translated = NotReadyError()
    elif error.status_code < 500:
        translated = InvalidParameterError()
    else:
        translated = InternalError()
    return error_response(request, translated)
