"""What operators ask for: health, the model card, and metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from app.api.answers import BytesResponse, JsonResponse
from app.errors import ErrorCode
from app.schemas import ErrorBody, answer, describe
from app.telemetry.metrics import CONTENT_TYPE, Metrics
from model.checkpoint import Checkpoint
from model.uncertainty.calibration import with_missing

router = APIRouter(tags=["operations"])


@answer
class Health:
    """State of the server."""

    status: str = describe("`live` or `ready`.")


@router.get("/health/live", summary="Is the process alive?", response_model=Health)
async def live() -> JsonResponse:
    """Always 200: a server that cannot answer this should be restarted."""
    return JsonResponse({"status": "live"})


@router.get(
    "/health/ready",
    summary="Can it answer predictions?",
    response_model=Health,
    responses={503: {"model": ErrorBody}},
)
async def ready(request: Request) -> JsonResponse:
    """200 once the network is loaded and warm; 503 before that, and from SIGTERM on."""
    state = request.app.state
    if not state.models.is_ready or state.is_draining:
        raise ErrorCode.NOT_READY()
    return JsonResponse({"status": "ready"})


@router.get("/model", summary="What is known about the network")
async def model(request: Request) -> JsonResponse:
    """The checkpoint's own description: layers, dropout rates, training, calibration, metrics."""
    checkpoint: Checkpoint = request.app.state.models.predictor.checkpoint
    card = checkpoint.card()
    identity = {"name": checkpoint.name, "version": checkpoint.version}
    return JsonResponse(identity | card | {"calibration": with_missing(card["calibration"])})


@router.get(
    "/metrics",
    summary="What the server counts, for Prometheus",
    response_class=PlainTextResponse,
    responses={404: {"model": ErrorBody}},
)
async def metrics(request: Request) -> BytesResponse:
    """Sums over all workers, in Prometheus' text format; 404 if metrics are turned off."""
    counted: Metrics | None = request.app.state.metrics
    if counted is None:
        raise ErrorCode.NOT_FOUND("metrics are off; DROPSERVE_METRICS=on turns them on")
    return BytesResponse(counted.text(), CONTENT_TYPE)
