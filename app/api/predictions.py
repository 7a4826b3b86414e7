"""`POST /predict` and its relatives: with MC dropout, as a stream, for batches.

The handlers are called with the bare request: FastAPI's own parsing would accept less (one form of
body) and take longer than the prediction. `app.api.bodies` reads every form; `app.api.openapi`
describes them.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.answers import JsonResponse, encode_json
from app.api.bodies import read_batch_request, read_image_request
from app.api.dependencies import answer_mc, started_state, times_of, while_connected
from app.api.fast_path import DirectRoute
from app.api.openapi import describe_batch_route, describe_image_route, describe_stream_route
from app.errors import ApiError, ErrorCode, error_body
from app.inference.jobs import Answer
from app.inference.pipeline import Inference
from app.schemas import (
    McParameters,
    McPrediction,
    McPredictionBatch,
    Prediction,
    PredictionBatch,
    PredictParameters,
)
from app.settings import Settings

router = APIRouter(tags=["predictions"], route_class=DirectRoute)


@router.post(
    "/predict",
    summary="Which digit is this?",
    **describe_image_route(PredictParameters, Prediction),
)
async def predict(request: Request) -> JsonResponse:
    """One image, dropout off: the same image always gets the same answer."""
    inference, settings = _serving(request, PredictParameters)
    asked = await read_image_request(request, PredictParameters, settings)
    return JsonResponse(await inference.predict(asked, times_of(request)))


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
    inference, settings = _serving(request, McParameters)
    asked = await read_image_request(request, McParameters, settings)
    return JsonResponse(await answer_mc(request, inference, asked))


@router.post(
    "/predict/mc/stream",
    summary="The same, while the passes are computed",
    **describe_stream_route(McParameters),
)
async def predict_mc_stream(request: Request) -> StreamingResponse:
    """Server-sent events: `estimate` with the fields so far, then `result`.

    The result is the answer of `/predict/mc`, byte for byte. An `error` has the error shape; a
    stream that ends without `result` has failed.
    """
    inference, settings = _serving(request, McParameters)
    asked = await read_image_request(request, McParameters, settings)
    admitted = ExitStack()
    admitted.enter_context(inference.admit_mc(asked))
    try:
        answers = inference.stream_mc(asked, times_of(request))
        # The first answer is awaited here, so that a bad image is a plain error response.
        first = await anext(answers)
    except BaseException:
        admitted.close()
        raise
    return _EventStream(first, answers, request.scope["state"], admitted)


@router.post(
    "/predict/batch",
    summary="Which digits are these?",
    **describe_batch_route(PredictParameters, PredictionBatch),
)
async def predict_batch(request: Request) -> JsonResponse:
    """Many images, dropout off; one bad image has its error in its place."""
    return await _answer_batch(request, PredictParameters)


@router.post(
    "/predict/mc/batch",
    summary="Which digits are these, and how sure are you?",
    **describe_batch_route(McParameters, McPredictionBatch),
)
async def predict_mc_batch(request: Request) -> JsonResponse:
    """Many images, dropout on; a seed applies to every image, so each gets its single answer."""
    return await _answer_batch(request, McParameters)


def _serving(
    request: Request, parameters_type: type[PredictParameters]
) -> tuple[Inference, Settings]:
    """What answers, and its settings.

    Raises:
        NotReadyError: the server is starting or stopping.
        OverloadedError: no request of this kind would be admitted; its body need not be read.
    """
    state = started_state(request)
    inference: Inference = state.inference
    inference.refuse_if_full(parameters_type)
    return inference, state.settings


async def _answer_batch(request: Request, parameters_type: type[PredictParameters]) -> JsonResponse:
    inference, settings = _serving(request, parameters_type)
    asked = await read_batch_request(request, parameters_type, settings)
    answers = await while_connected(request, inference.predict_batch(asked, times_of(request)))
    return JsonResponse({"predictions": [_in_its_place(answer) for answer in answers]})


def _in_its_place(answer: Answer | ApiError) -> dict[str, Any]:
    """The answer, or the error without the request id: a body must not depend on it."""
    if not isinstance(answer, ApiError):
        return answer
    detail = error_body(answer, None)["error"]
    del detail["request_id"]
    return {"error": detail}


async def _events(
    first: Answer, answers: AsyncGenerator[Answer, None], state: dict[str, Any]
) -> AsyncIterator[bytes]:
    """The answers as server-sent events; only the last, with a reason to stop, is the result."""
    try:
        yield _event(first)
        async for answer in answers:
            yield _event(answer)
    except ApiError as error:
        yield _error_event(error, state)
    except Exception:
        yield _error_event(ApiError(ErrorCode.INTERNAL), state)
        raise


def _event(answer: Answer) -> bytes:
    return _encode_event("result" if answer["stop_reason"] else "estimate", answer)


def _error_event(error: ApiError, state: dict[str, Any]) -> bytes:
    state["error_code"] = error.code  # the status is sent already, and says that all is well
    return _encode_event("error", error_body(error, state["request_id"]))


def _encode_event(name: str, content: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode_json(content))


class _EventStream(StreamingResponse):
    """Server-sent events that no proxy stores or holds back."""

    media_type = "text/event-stream"

    def __init__(
        self,
        first: Answer,
        answers: AsyncGenerator[Answer, None],
        state: dict[str, Any],
        admitted: ExitStack,
    ) -> None:
        super().__init__(
            _events(first, answers, state),
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._answers = answers
        self._admitted = admitted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; whatever ends them, nothing more is computed or counts as queued."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A reader that goes away while an event is sent leaves the generator suspended.
            await self._answers.aclose()
            self._admitted.close()
