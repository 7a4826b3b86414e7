"""Hands a request to the predictor, and gives it up once the client is gone."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from app.errors import ApiError
from app.inference.admission import Recheck, note_recheck
from app.inference.reading import picture_cost
from app.schemas import McParameters, Prediction, PredictParameters
from app.telemetry.request_record import Timings

if TYPE_CHECKING:
    from app.inference.decoding import Image
    from app.inference.pipeline import Predictor

T = TypeVar("T")


def check_one(
    request: Request,
    parameters_type: type[PredictParameters],
    parameters: PredictParameters | None,
    start: bytes,
    size: int,
) -> None:
    """Refuses a request for one image that would be refused once it is read, if that is known.

    Args:
        request: whose body is not read yet, or in part.
        parameters_type: of the route.
        parameters: None if they are not known yet.
        start: the beginning of the image file, or nothing.
        size: of the file, bytes, as far as it is known.

    Raises:
        ApiError: see `predictor_of` and `Predictor.check_request`.
    """
    predictor = predictor_of(request)
    if parameters is None:
        predictor.check(parameters_type)
        return
    decoding_cost = picture_cost(start, size) if start else 0
    try:
        predictor.check_request(1, parameters, decoding_cost=decoding_cost)
    except ApiError as error:
        note_recheck(error, predictor.recheck(parameters), _of_one_image)
        raise


def _of_one_image(recheck: Recheck, start: bytes, size: int) -> int | None:
    return recheck(1, start, size)


def predictor_of(request: Request) -> "Predictor":
    """What answers now: the model that the address names, or the default.

    Asked again after the body is read, since a reload may close an earlier one.

    Raises:
        ApiError: not_ready, the server is starting or stopping; not_found, there is no such model.
    """
    scope = request.scope
    models, named = scope["app"].state.models, scope.get("path_params")
    predictor: Predictor = models.find(**named) if named else models.predictor
    scope["state"]["model"] = predictor.name
    return predictor


async def answer_one(
    request: Request, predictor: "Predictor", image: "Image", parameters: PredictParameters
) -> Prediction:
    """The answer to one image, with dropout where the parameters are those of MC dropout.

    Raises:
        ApiError: it is refused or fails.
        ClientDisconnect: the client is gone; nothing more is computed.
    """
    computing: Coroutine[Any, Any, tuple[Prediction, Timings]]
    may_take_long = predictor.may_take_long(image, parameters)
    if may_take_long:
        # Under overload most is refused: that should not cost the tasks that watch the client.
        predictor.check_request(1, parameters, decoding_cost=picture_cost(image))
    if isinstance(parameters, McParameters):
        computing = predictor.predict_mc(image, parameters)
    else:
        computing = predictor.predict(image, parameters)
    if may_take_long:
        computing = while_connected(request, computing)
    answer, request.scope["state"]["timings"] = await computing
    return answer


async def answer_many(
    request: Request,
    predictor: "Predictor",
    images: "list[Image | ApiError]",
    parameters: PredictParameters,
) -> list[Prediction | ApiError]:
    """An answer for each image, or what is wrong with it; see `answer_one`."""
    computing = predictor.predict_batch(images, parameters)
    answers, request.scope["state"]["timings"] = await while_connected(request, computing)
    return answers


async def while_connected(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """Awaits the answer, and gives it up once the client is gone.

    Raises:
        ClientDisconnect: it is gone.
    """
    # Not in a task of its own: so it is admitted, or refused, before the next request is looked at.
    computing = asyncio.current_task()
    assert computing is not None
    listening = asyncio.ensure_future(_cancel_once_gone(request, computing))
    try:
        return await answer
    except asyncio.CancelledError:
        if not listening.done():
            raise
        computing.uncancel()
        raise ClientDisconnect from None
    finally:
        listening.cancel()


async def _cancel_once_gone(request: Request, computing: "asyncio.Task[Any]") -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    computing.cancel()
