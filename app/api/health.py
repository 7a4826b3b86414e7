"""What operators ask for: health, the model card, and metrics."""

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse

from app.api.answers import BytesResponse, JsonResponse
from app.api.cards import model_card, model_summary
from app.api.dispatch import predictor_of
from app.api.openapi import MODEL_PARAMETER
from app.api.routes import MODEL_PREFIXES
from app.errors import ErrorCode
from app.schemas import ErrorBody, answer, describe
from app.telemetry.metrics import CONTENT_TYPE, Metrics

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
    return JsonResponse(model_card(predictor_of(request)))


@router.get("/models", summary="Which models are served")
async def models(request: Request) -> JsonResponse:
    """Every model with its versions: what it takes, and which labels it answers with.

    `/models/NAME` and `/models/NAME/versions/VERSION` are the card of one, as `/model` is the
    default's. Behind the same addresses are all routes of `/predict`, such as
    `/models/NAME/predict/mc`.
    """
    repository = request.app.state.models
    default = repository.predictor.name
    listed = [
        {
            "name": name,
            "default": name == default,
            "versions": [
                {"version": version, **model_summary(predictor)}
                for version, predictor in sorted(versions.items(), key=lambda each: int(each[0]))
            ],
        }
        for name, versions in repository.models.items()
    ]
    return JsonResponse({"models": listed})


router.get(
    MODEL_PREFIXES[1],
    summary="What is known about a network of several",
    responses={404: {"model": ErrorBody}},
    openapi_extra={"parameters": [MODEL_PARAMETER]},
)(model)
router.get(MODEL_PREFIXES[2], include_in_schema=False)(model)


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
