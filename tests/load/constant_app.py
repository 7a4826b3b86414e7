"""The product's application with a route that returns a constant, for comparison.

`POST /constant` shows how many requests FastAPI and uvicorn handle without a prediction.
`python -m tests.load.constant_app` serves it with the settings of the environment.
"""

import os
import sys

from fastapi import FastAPI, Request
from fastapi.responses import Response

from app.api.application import create_app
from app.inference.served_checkpoint import load_served_checkpoint
from app.process.listening import bind_listeners
from app.process.server import run_app
from app.settings import Settings, load_settings
from app.telemetry.logs import configure_logs


def create_constant_app(settings: Settings) -> FastAPI:
    """The application; `POST /constant` returns the body of the last `PUT /constant`."""
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

    for method, endpoint in (("PUT", set_constant), ("POST", constant)):
        app.add_api_route("/constant", endpoint, methods=[method], include_in_schema=False)
        # First in the list, so that the router finds it without trying any other.
        app.router.routes.insert(0, app.router.routes.pop())
    return app


if __name__ == "__main__":
    settings = load_settings(os.environ)
    sys.exit(run_app(create_constant_app(settings), settings, bind_listeners(settings)))
