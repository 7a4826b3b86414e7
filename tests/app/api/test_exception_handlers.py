"""Which handler answers an exception, and with what."""

from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Scope

from app.api.exception_handlers import HANDLERS, ExceptionAnswerer
from app.errors import ApiError, ErrorCode


async def answer(error: Exception, method: str = "POST") -> tuple[Scope, Response]:
    """The scope afterwards, whose state has the error's code, and what was sent."""
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": "/predict",
        "headers": [],
        "state": {"request_id": "id-1", "path": "/predict"},
    }
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("nothing is read")

    async def send(message: Message) -> None:
        sent.append(message)

    await ExceptionAnswerer(HANDLERS)(error, scope, receive, send)
    start, body = sent
    response = Response(body["body"], start["status"])
    response.raw_headers = start["headers"]
    return scope, response


@pytest.mark.parametrize(
    ("error", "method", "status", "code"),
    [
        (ApiError(ErrorCode.NO_INK), "POST", 422, "no_ink"),
        (HTTPException(404), "GET", 404, "not_found"),
        (HTTPException(405, headers={"Allow": "POST"}), "GET", 405, "method_not_allowed"),
        (HTTPException(405, headers={"Allow": "POST"}), "PUT", 405, "method_not_allowed"),
        (HTTPException(503), "GET", 503, "not_ready"),
        (HTTPException(400), "POST", 422, "invalid_parameter"),
        (HTTPException(502), "POST", 500, "internal"),
        (RuntimeError("a secret"), "POST", 500, "internal"),
    ],
)
async def test_an_exception_has_its_answer(
    error: Exception, method: str, status: int, code: str
) -> None:
    scope, response = await answer(error, method)

    assert response.status_code == status
    assert f'"code":"{code}"'.encode() in response.body
    assert b"secret" not in response.body
    assert scope["state"]["error_code"] == code
    if status == 405:
        assert response.headers["allow"] == "POST"
        assert (b"--data-binary" in response.body) == (method == "PUT")


async def test_a_client_that_went_away_has_no_answer() -> None:
    with pytest.raises(ClientDisconnect):
        await answer(ClientDisconnect())


async def test_an_exception_without_a_handler_is_raised_as_it_was() -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    async def other(request: Request, error: Exception) -> Response:
        raise AssertionError

    error = RuntimeError("as it was")
    with pytest.raises(RuntimeError) as caught:
        await ExceptionAnswerer({ValueError: other})(
            error, {"type": "http", "headers": []}, never, never
        )
    assert caught.value is error
