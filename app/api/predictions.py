"""`POST /predict` and its relatives: with MC dropout, as a stream, for batches.

The handlers are called with the bare request: FastAPI's own parsing would accept less (one form of
body) and take longer than the prediction. `app.api.bodies` reads every form; `app.api.openapi`
describes them.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.answers import JsonResponse
from app.api.bodies import (
    count_images,
    names_passes,
    read_batch_request,
    read_image_request,
)
from app.api.dispatch import answer_many, answer_one, check_one, predictor_of
from app.api.feedback import FeedbackCounter
from app.api.openapi import (
    describe_batch_route,
    describe_for_model,
    describe_image_route,
    describe_stream_route,
)
from app.api.routes import MODEL_PREFIXES, DirectRoute
from app.errors import ApiError, ErrorCode
from app.inference.admission import Recheck, note_recheck
from app.inference.encoding import encode_json
from app.schemas import (
    ErrorSummary,
    FailedImage,
    McParameters,
    McPrediction,
    Prediction,
    PredictParameters,
    answer,
    describe,
    error_body,
)
from app.telemetry.request_record import Timings

router = APIRouter(route_class=DirectRoute)


Endpoint = Callable[[Request], Awaitable[Response]]


def _route(path: str, summary: str, description: dict[str, Any]) -> Callable[[Endpoint], Endpoint]:
    """Serves a route for the default model, and for each model that the address names."""

    def add(endpoint: Endpoint) -> Endpoint:
        short, of_model, of_version = MODEL_PREFIXES
        router.post(short + path, tags=["predictions"], summary=summary, **description)(endpoint)
        named = describe_for_model(description)
        router.post(of_model + path, tags=["models"], summary=summary, **named)(endpoint)
        router.post(of_version + path, include_in_schema=False)(endpoint)
        return endpoint

    return add


@answer
class PredictionBatch:
    """Deterministic answers in the order of the images."""

    predictions: Sequence[Prediction | FailedImage] = describe("One for each image.")


@answer
class McPredictionBatch:
    """MC-dropout answers in the order of the images."""

    predictions: Sequence[McPrediction | FailedImage] = describe("One for each image.")


@_route("/predict", "Which digit is this?", describe_image_route(PredictParameters, Prediction))
async def predict(request: Request) -> JsonResponse:
    """One image, dropout off: the same image always gets the same answer."""
    return await _answer_one(request, PredictParameters)


@_route(
    "/predict/mc",
    "Which digit is this, and how sure are you?",
    describe_image_route(McParameters, McPrediction),
)
async def predict_mc(request: Request) -> JsonResponse:
    """One image, dropout on for `passes` passes: their mean, variance and entropies.

    Each pass switches off a random share of the neurons, so the passes scatter where the network is
    unsure. The same image, parameters and seed give the same bytes, whatever else the server does.
    """
    return await _answer_one(request, McParameters)


@_route(
    "/predict/mc/stream",
    "The same, while the passes are computed",
    describe_stream_route(McParameters),
)
async def predict_mc_stream(request: Request) -> StreamingResponse:
    """Server-sent events: `estimate` with the fields so far, then `result`.

    The result is the answer of `/predict/mc`, byte for byte. An `error` has the error shape; a
    stream that ends without `result` has failed.
    """
    check = partial(check_one, request, McParameters)
    image, parameters = await read_image_request(
        request, McParameters, check, predictor_of(request).spec
    )
    answers = predictor_of(request).stream_mc(image, parameters)
    # The first answer is awaited here, so that a bad image is a plain error response.
    first = await anext(answers)
    return _EventStream(first, answers, request.scope["state"])


@_route(
    "/predict/batch",
    "Which digits are these?",
    describe_batch_route(PredictParameters, PredictionBatch),
)
async def predict_batch(request: Request) -> JsonResponse:
    """Many images, dropout off; one bad image has its error in its place."""
    return await _answer_batch(request, PredictParameters)


@_route(
    "/predict/mc/batch",
    "Which digits are these, and how sure are you?",
    describe_batch_route(McParameters, McPredictionBatch),
)
async def predict_mc_batch(request: Request) -> JsonResponse:
    """Many images, dropout on; a seed applies to every image, so each gets its single answer."""
    return await _answer_batch(request, McParameters)


async def _answer_one(request: Request, parameters_type: type[PredictParameters]) -> JsonResponse:
    check = partial(check_one, request, parameters_type)
    image, parameters = await read_image_request(
        request, parameters_type, check, predictor_of(request).spec
    )
    found = await answer_one(request, predictor_of(request), image, parameters)
    feedback: FeedbackCounter | None = request.app.state.feedback
    headers = None if feedback is None else feedback.headers(found)
    return JsonResponse(found, headers=headers)


async def _answer_batch(request: Request, parameters_type: type[PredictParameters]) -> JsonResponse:
    predictor = predictor_of(request)
    predictor.check(parameters_type)

    def check(images: int, parameters: PredictParameters) -> None:
        asked = predictor_of(request)
        try:
            asked.check_request(images, parameters)
        except ApiError as error:
            note_recheck(error, asked.recheck(parameters), _of_batch)
            raise

    images, parameters = await read_batch_request(request, parameters_type, check, predictor.spec)
    answers = await answer_many(request, predictor_of(request), images, parameters)
    predictions = [_failed_image(one) if isinstance(one, ApiError) else one for one in answers]
    return JsonResponse(PredictionBatch(predictions=predictions))


def _of_batch(recheck: Recheck, start: bytes, size: int) -> int | None:
    # What is not seen may ask for fewer passes.
    is_known = len(start) == size and not names_passes(start)
    return recheck(count_images(start)) if is_known else None


def _failed_image(error: ApiError) -> FailedImage:
    summary = ErrorSummary(code=error.code, message=error.message, param=error.param)
    return FailedImage(error=summary)


TimedAnswer = tuple[McPrediction, Timings]


async def _events(
    first: TimedAnswer, answers: AsyncGenerator[TimedAnswer, None], state: dict[str, Any]
) -> AsyncIterator[bytes]:
    """The answers as server-sent events; only the last, with a reason to stop, is the result."""
    try:
        yield _event(first, state)
        async for following in answers:
            yield _event(following, state)
    except ApiError as error:
        yield _error_event(error, state)
    except Exception:
        yield _error_event(ErrorCode.INTERNAL(), state)
        raise


def _event(timed: TimedAnswer, state: dict[str, Any]) -> bytes:
    found, state["timings"] = timed
    return _encode_event("result" if found.is_final else "estimate", found)


def _error_event(error: ApiError, state: dict[str, Any]) -> bytes:
    state["error_code"] = error.code  # the status, which says success, is sent already
    return _encode_event("error", error_body(error, state["request_id"], state.get("trace_id")))


def _encode_event(name: str, content: Any) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), encode_json(content))


class _EventStream(StreamingResponse):
    """Server-sent events that no proxy stores or holds back."""

    media_type = "text/event-stream"

    def __init__(
        self, first: TimedAnswer, answers: AsyncGenerator[TimedAnswer, None], state: dict[str, Any]
    ) -> None:
        super().__init__(
            _events(first, answers, state),
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A reader that goes away while an event is sent leaves the generator suspended; closed,
            # it computes nothing more and no longer counts as queued.
            await self._answers.aclose()
