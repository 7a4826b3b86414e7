"""Direct routes: before FastAPI's stack, and yet like every other route of the application."""

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.fast_path import DirectApp, DirectRoute
from app.api.middleware import RequestContextMiddleware
from app.errors import ApiError, ErrorCode
from tests.conftest import assert_error, connect, sample

pytestmark = pytest.mark.asyncio(loop_scope="session")


class _Marking:
    """Middleware that adds a header of its own."""

    def __init__(self, app: ASGIApp, value: bytes) -> None:
        self._app, self._value = app, value

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-mark", self._value))
            await send(message)

        await self._app(scope, receive, marked)


async def _greet(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.scope['route'].path}")


async def _refuse(request: Request) -> Response:
    raise ApiError(ErrorCode.NO_INK)


async def _fail(request: Request) -> Response:
    raise RuntimeError("a secret")


def _small_app() -> FastAPI:
    app = DirectApp(middleware=[Middleware(RequestContextMiddleware)])
    app.add_middleware(_Marking, value=b"outer")
    router = APIRouter(route_class=DirectRoute)
    for path, endpoint in (("/greet", _greet), ("/refuse", _refuse), ("/fail", _fail)):
        router.add_api_route(path, endpoint, methods=["POST"])
    app.router.routes.extend(router.routes)
    app.add_api_route("/constant", _greet, methods=["POST"], response_model=None)
    return app


@pytest.mark.parametrize(("path", "status"), [("/greet", 200), ("/refuse", 422), ("/fail", 500)])
async def test_the_applications_middleware_is_around_direct_routes_too(
    path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(_small_app()) as client:
        response = await client.post(path)

    assert (response.status_code, response.headers["x-mark"]) == (status, "outer")
    assert response.headers["x-request-id"]
    assert "secret" not in response.text
    if status != 200:
        assert response.json()["error"]["request_id"] == response.headers["x-request-id"]


async def test_an_endpoint_can_see_its_route() -> None:
    async with connect(_small_app()) as client:
        assert (await client.post("/greet")).text == "POST /greet"
        assert (await client.post("/constant")).text == "POST /constant"


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD", "DELETE"])
async def test_other_methods_are_refused_as_on_other_routes(method: str) -> None:
    async with connect(_small_app()) as client:
        for path in ("/greet", "/constant"):
            response = await client.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_the_framework_is_not_asked() -> None:
    app = _small_app()
    app.middleware_stack = app.build_middleware_stack()

    async def unreachable(*_: object) -> None:
        raise AssertionError("FastAPI's stack was asked")

    app.middleware_stack._framework = unreachable  # type: ignore[attr-defined]
    async with connect(app) as client:
        assert (await client.post("/greet")).status_code == 200


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


async def test_request_ids_differ_between_requests_and_routes(client: httpx.AsyncClient) -> None:
    ids = [
        (await client.post(path, content=sample("7.png"))).headers["x-request-id"]
        for path in ("/predict", "/predict/mc", "/nothing-here") * 20
    ]

    assert len(set(ids)) == len(ids)
