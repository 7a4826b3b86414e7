"""Health, the model card, and the API docs."""

from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, PlainTextResponse

from app.api.answers import BytesResponse, JsonResponse
from app.errors import ApiError, ErrorCode
from app.schemas import ErrorBody, Health
from app.telemetry.metrics import CONTENT_TYPE, Metrics

STATIC_DIR = Path(__file__).parents[1] / "static"

# Nothing foreign is loaded, and no inline script runs. Swagger UI sets styles from its script,
# which `style-src` allows, and draws its icons from data: addresses.
DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
)

router = APIRouter(tags=["operations"])


# Some load balancers ask with HEAD.
@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Is the process alive?", response_model=Health)
async def live() -> JsonResponse:
    """Always 200: a server that cannot answer this should be restarted."""
    return JsonResponse({"status": "live"})


@router.head("/health/ready", include_in_schema=False)
@router.get(
    "/health/ready",
    summary="Can it answer predictions?",
    response_model=Health,
    responses={503: {"model": ErrorBody}},
)
async def ready(request: Request) -> JsonResponse:
    """200 once the network is loaded and warm, 503 before, and from when the server is to end."""
    state = request.app.state
    if not state.models.is_ready or state.is_draining:
        raise ApiError(ErrorCode.NOT_READY)
    return JsonResponse({"status": "ready"})


@router.get("/model", summary="What is known about the network")
async def model(request: Request) -> JsonResponse:
    """The checkpoint's own description: layers, dropout rates, training, calibration, metrics."""
    checkpoint = request.app.state.models.predictor.checkpoint
    return JsonResponse(
        {"name": checkpoint.name, "version": checkpoint.version, **checkpoint.card()}
    )


@router.get(
    "/metrics",
    summary="What the server counts, for Prometheus",
    response_class=PlainTextResponse,
    responses={404: {"model": ErrorBody}},
)
async def metrics(request: Request) -> BytesResponse:
    """Sums over all workers, in Prometheus' text format; 404 if the operator turned it off."""
    counted: Metrics | None = request.app.state.metrics
    if counted is None:
        raise ApiError(ErrorCode.NOT_FOUND, "metrics are off; DROPSERVE_METRICS=on turns them on")
    return BytesResponse(counted.text(), CONTENT_TYPE)


@router.get("/docs", include_in_schema=False)
async def docs() -> FileResponse:
    """Swagger UI from this server's own files."""
    return FileResponse(STATIC_DIR / "docs.html", headers={"content-security-policy": DOCS_POLICY})
