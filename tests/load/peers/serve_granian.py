"""Dropserve's application on granian in place of uvicorn, without the limits on connections."""

import os

from fastapi import FastAPI
from granian import Granian
from granian.constants import HTTPModes, Interfaces, Loops

from app.api.application import create_app
from app.inference.served_checkpoint import load_served_checkpoint
from app.settings import load_settings
from app.telemetry.logs import configure_logs


def create() -> FastAPI:
    settings = load_settings(os.environ)
    checkpoint = load_served_checkpoint(settings)
    return create_app(settings, checkpoint, access_log=configure_logs(settings))


if __name__ == "__main__":
    Granian(
        "tests.load.peers.serve_granian:create",
        factory=True,
        address="127.0.0.1",
        port=int(os.environ["PEER_PORT"]),
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        log_enabled=False,
    ).serve()
