"""What a route needs of the application."""

from fastapi import Request
from starlette.datastructures import State

from app.errors import NotReadyError


def started_state(request: Request) -> State:
    """The application's state, with `settings` and `inference`.

    Raises:
        NotReadyError: it has not started, or has ended.
    """
    state: State = request.app.state
    if not state.is_ready:
        raise NotReadyError
    return state
