"""Direct routes: on the fast path, and yet like every other route of the application."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.fast_path import DirectApp
from app.api.routes import DirectRoute
from app.errors import ApiError, ErrorCode
from tests.conftest import assert_error, connect, sample

pytestmark = pytest.mark.asyncio(loop_scope="session")


class _Marking:
    """Middleware that adds a header of its own."""

    def __init__(self, app: ASGIApp, made: list[object]) -> None:
        self._app = app
        made.append(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-mark", b"outer"))
            await send(message)

        await self._app(scope, receive, marked)


async def _greet(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.scope['route'].path}")


async def _greet_by_name(request: Request) -> Response:
    return PlainTextResponse(request.path_params["name"])


async def _refuse(request: Request) -> Response:
    raise ApiError(ErrorCode.NO_INK)


async def _fail(request: Request) -> Response:
    raise RuntimeError("a secret")


async def _break_off(request: Request) -> Response:
    async def content() -> AsyncIterator[bytes]:
        yield b"begun"
        raise RuntimeError("a secret")

    return StreamingResponse(content())


ENDPOINTS = {
    "greet": _greet,
    "greet/{name}": _greet_by_name,
    "refuse": _refuse,
    "fail": _fail,
    "break-off": _break_off,
}
# The same endpoints on the fast path and on the router's.
PREFIXES = ("", "/router")


def _small_app() -> DirectApp:
    app = DirectApp()
    for prefix, route_class in zip(PREFIXES, (DirectRoute, APIRoute), strict=True):
        router = APIRouter(route_class=route_class)
        for path, endpoint in ENDPOINTS.items():
            router.add_api_route(
                f"{prefix}/{path}", endpoint, methods=["POST"], response_model=None
            )
        app.router.routes.extend(router.routes)
    app.add_api_route("/read", _greet, response_model=None)
    return app


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize(("path", "status"), [("greet", 200), ("refuse", 422), ("fail", 500)])
async def test_middleware_is_one_instance_around_every_route(
    prefix: str, path: str, status: int
) -> None:
    app = _small_app()
    made: list[object] = []
    app.add_middleware(_Marking, made=made)
    async with connect(app) as client:
        response = await client.post(f"{prefix}/{path}")

    assert (response.status_code, response.headers["x-mark"]) == (status, "outer")
    assert response.headers["x-request-id"]
    assert "secret" not in response.text
    assert len(made) == 1
    if status != 200:
        assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("key", [RuntimeError, Exception, 500])
async def test_an_exception_handler_is_for_every_route(prefix: str, key: Any) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{type(error).__name__} at {request.url.path}", 418)

    app = _small_app()
    app.add_middleware(_Marking, made=[])
    app.add_exception_handler(key, answer)
    async with connect(app) as client:
        failed = await client.post(f"{prefix}/fail")
        refused = await client.post(f"{prefix}/refuse")

    assert (failed.status_code, failed.text) == (418, f"RuntimeError at {prefix}/fail")
    assert failed.headers["x-mark"] == "outer"
    assert failed.headers["x-content-type-options"] == "nosniff"
    assert_error(refused, 422, "no_ink")  # its own handler is nearer


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_handler_for_our_errors_replaces_ours(prefix: str) -> None:
    def answer(request: Request, error: Exception) -> Response:  # in a thread, as Starlette has it
        assert isinstance(error, ApiError)
        return PlainTextResponse(error.code, error.status)

    app = _small_app()
    app.add_exception_handler(ApiError, answer)
    async with connect(app) as client:
        refused = await client.post(f"{prefix}/refuse")

    assert (refused.status_code, refused.text) == (422, "no_ink")


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_unexpected_exception_is_logged_once(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(_small_app()) as client:
        response = await client.post(f"{prefix}/fail")

    assert_error(response, 500, "internal")
    (record,) = caplog.records
    assert response.headers["x-request-id"] in record.getMessage()
    assert record.exc_info
    assert "a secret" in str(record.exc_info[1])


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_answer_that_breaks_off_is_logged_once_and_not_completed(
    prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = _small_app()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "method": "POST",
        "path": f"{prefix}/break-off",
        "root_path": "",
        "query_string": b"",
        "headers": [],
    }
    await app(scope, receive, send)

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"] is True
    (record,) = caplog.records
    assert "a secret" in caplog.text
    assert "failed" in record.getMessage()


async def test_an_exception_of_middleware_is_answered_as_one_of_a_route(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Refusing:
        def __init__(self, app: ASGIApp, error: Exception) -> None:
            self._error = error

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise self._error

    for error, status, code in (
        (ApiError(ErrorCode.OVERLOADED), 429, "overloaded"),
        (RuntimeError("a secret"), 500, "internal"),
    ):
        app = _small_app()
        app.add_middleware(Refusing, error=error)
        async with connect(app) as client:
            for prefix in PREFIXES:
                assert_error(await client.post(f"{prefix}/greet"), status, code)
    assert len(caplog.records) == len(PREFIXES)


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_an_endpoint_can_see_its_route_and_its_path_parameters(prefix: str) -> None:
    async with connect(_small_app()) as client:
        assert (await client.post(f"{prefix}/greet")).text == f"POST {prefix}/greet"
        assert (await client.post(f"{prefix}/greet/Ada")).text == "Ada"


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
async def test_other_methods_are_refused_as_on_other_routes(method: str) -> None:
    async with connect(_small_app()) as client:
        for prefix in PREFIXES:
            response = await client.request(method, f"{prefix}/greet")
            assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_head_is_answered_as_get_without_the_body() -> None:
    async with connect(_small_app()) as client:
        got = await client.get("/read")
        headed = await client.head("/read")

    assert (got.status_code, got.text) == (200, "GET /read")
    assert (headed.status_code, headed.content) == (200, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("path", ["/greet", "/greet/Ada"])
@pytest.mark.parametrize("mounted_at", ["", "/digits"])
async def test_the_router_is_not_asked(
    path: str, mounted_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(*_: object) -> None:
        raise AssertionError("FastAPI's router was asked")

    monkeypatch.setattr(APIRouter, "__call__", unreachable)
    app: ASGIApp = _small_app()
    if mounted_at:
        app = Starlette(routes=[Mount(mounted_at, app)])
    async with connect(app) as client:
        assert (await client.post(mounted_at + path)).status_code == 200
        assert (await client.post(f"{mounted_at}/router{path}")).status_code == 500


async def test_the_application_can_be_mounted_in_another(app: FastAPI) -> None:
    transport = httpx.ASGITransport(Starlette(routes=[Mount("/digits", app)]))
    async with httpx.AsyncClient(transport=transport, base_url="http://outer") as client:
        response = await client.post("/digits/predict", content=sample("7.png"))
        failed = await client.post("/digits/predict", content=b"no image")
        failed_in_v2 = await client.post("/digits/v2/models/none/infer", content=b"{}")

    assert response.json()["digit"] == 7
    assert_error(failed, 415, "not_an_image")
    assert list(failed_in_v2.json()) == ["error"]
    assert isinstance(failed_in_v2.json()["error"], str)
