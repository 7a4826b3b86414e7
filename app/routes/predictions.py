"""`POST /predict` and `POST /predict/mc`.

The handlers take the bare request: FastAPI's own parsing would accept less (one form of body) and
take longer than the prediction. `app.bodies` reads every form; `app.openapi` describes them.
"""

from fastapi import APIRouter, Request

from app.bodies import read_image_request
from app.openapi import describe_image_route
from app.responses import JsonResponse
from app.schemas import McParameters, McPrediction, Prediction, PredictParameters

router = APIRouter(tags=["predictions"])


@router.post(
    "/predict",
    summary="Which digit is this?",
    **describe_image_route(PredictParameters, Prediction),
)
async def predict(request: Request) -> JsonResponse:
    """One image, dropout off: the same image always gets the same answer."""
    state = request.app.state
    asked = await read_image_request(request, PredictParameters, state.settings)
    return JsonResponse(await state.inference.predict(asked))


@router.post(
    "/predict/mc",
    summary="Which digit is this, and how sure are you?",
    **describe_image_route(McParameters, McPrediction),
)
async def predict_mc(request: Request) -> JsonResponse:
    """One image, dropout on for `passes` passes: their mean, variance and entropies.

    Each pass switches off a random share of the neurons, so the passes scatter where the network is
    unsure. The same image, parameters and seed give the same bytes, whatever else the server does.
    """
    state = request.app.state
    asked = await read_image_request(request, McParameters, state.settings)
    return JsonResponse(await state.inference.predict_mc(asked))
