"""The baseline of `dropserve bench http`: an app that reads the body and answers a constant.

What it reaches is what FastAPI and uvicorn leave to a prediction. It is no part of the product.
`python -m app.constant_app PORT` serves what comes on standard input.
"""

import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response


def create_constant_app(answer: bytes) -> FastAPI:
    """An app whose /predict reads the request's body and answers always the same.

    Args:
        answer: JSON, as long as the answer it stands for.
    """
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        await request.body()
        return Response(answer, media_type="application/json")

    @app.get("/health/ready")
    async def ready() -> Response:
        return Response()

    return app


def main() -> None:
    """Serves with the settings that `app.server` has."""
    app = create_constant_app(sys.stdin.buffer.read())
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="info",
        access_log=False,
        server_header=False,
    )


if __name__ == "__main__":
    main()
