"""What `dropserve bench http` measures: the product's app with a route that answers a constant.

What `/constant` reaches is what FastAPI and uvicorn leave to a prediction in the very same app. It
is no part of the product: only `python -m app.bench_app PORT` serves it.
"""

import os
import sys
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response

from app.api.application import create_app
from app.inference.repository import load_served_checkpoint
from app.process.server import run_app
from app.settings import Settings, load_settings
from app.telemetry.logs import configure_logs


def create_bench_app(settings: Settings) -> FastAPI:
    """The product's app with `POST /constant`, which answers with what `PUT /constant` brought."""
    app = create_app(
        settings, load_served_checkpoint(settings), access_log=configure_logs(settings)
    )
    answer = b""

    async def constant(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    async def set_constant(request: Request) -> Response:
        nonlocal answer
        answer = await request.body()
        return Response()

    _add_first(app, "POST", constant)
    _add_first(app, "PUT", set_constant)
    return app


def _add_first(
    app: FastAPI, method: str, endpoint: Callable[[Request], Awaitable[Response]]
) -> None:
    """Adds a route that is tried before the product's, so that finding it costs the least."""
    app.add_api_route("/constant", endpoint, methods=[method], include_in_schema=False)
    app.router.routes.insert(0, app.router.routes.pop())


def main() -> None:
    """Serves on the given port, as `dropserve serve` does."""
    settings = load_settings(os.environ, {"port": sys.argv[1], "drain_seconds": 0})
    sys.exit(run_app(create_bench_app(settings), settings))


if __name__ == "__main__":
    main()
