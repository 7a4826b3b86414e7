"""What a route needs of the application."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.datastructures import State
from starlette.requests import ClientDisconnect

from app.api.bodies import ImageRequest
from app.errors import ApiError, ErrorCode
from app.inference.jobs import Answer
from app.inference.pipeline import Inference
from app.schemas import McParameters
from app.telemetry.request_record import Timings

# Shorter requests are answered before their caller can be seen to be gone.
_WATCHED_PASSES = 256

T = TypeVar("T")


def started_state(request: Request) -> State:
    """The application's state, with `settings` and `inference`.

    Raises:
        ApiError: not_ready, it has not started, or has ended.
    """
    state: State = request.app.state
    if not state.is_ready:
        raise ApiError(ErrorCode.NOT_READY)
    return state


def times_of(request: Request) -> Timings:
    """Where the request's time goes, to be filled in."""
    times: Timings = request.scope["state"]["times"]
    return times


async def answer_mc(
    request: Request, inference: Inference, asked: ImageRequest[McParameters]
) -> Answer:
    """The MC-dropout answer for one image, given up once the client is gone.

    Raises:
        ApiError: it is refused or fails; refused before anything is spent on it.
    """
    with inference.admit_mc(asked):
        answer = inference.predict_mc(asked, times_of(request))
        if asked.parameters.passes <= _WATCHED_PASSES:
            return await answer
        return await while_connected(request, answer)


async def while_connected(request: Request, answer: Coroutine[Any, Any, T]) -> T:
    """Awaits the answer, and gives it up once the client is gone."""
    computing = asyncio.ensure_future(answer)
    listening = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({computing, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not computing.done():
            raise ClientDisconnect
        return computing.result()
    finally:
        computing.cancel()
        listening.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
